"""Loading is whole or an error. Files are the official implementation's, and damaged copies of it."""

import argparse
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convnext_dense.checkpoints import load_weights, read_checkpoint
from convnext_dense.models import ConvNeXt

OFFICIAL = Path(__file__).parents[1] / "data" / "official_v1.pth"
SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))


@pytest.fixture
def weights():
    return torch.load(OFFICIAL, weights_only=True)["model"]


def save(path, content):
    torch.save(content, path)
    return path


def test_classifier_file_leaves_only_the_output_norms_new(weights):
    model = ConvNeXt(SMALL)
    report = load_weights(model, OFFICIAL)
    body = [name for name in weights if not name.startswith(("norm.", "head."))]
    assert set(report.loaded) == set(body)
    assert set(report.new) == {f"norm{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias")}
    assert set(report.unexpected) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    for name in body:
        torch.testing.assert_close(model.state_dict()[name], weights[name], rtol=0, atol=0)
    assert str(report).startswith(f"Loaded {len(body)} of {len(body) + 8} tensors from {OFFICIAL}: 8 output norms")


@pytest.mark.parametrize("wrapper", ["bare", "state_dict", "module", "backbone", "safetensors"])
def test_usual_wrappings_are_taken_off(tmp_path, weights, wrapper):
    path = tmp_path / "weights.pth"
    if wrapper == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    else:
        prefix = {"module": "module.", "backbone": "backbone."}.get(wrapper, "")
        content = {prefix + name: tensor for name, tensor in weights.items()}
        save(path, {"state_dict": content, "meta": {}} if wrapper == "state_dict" else content)
    assert load_weights(ConvNeXt(SMALL), path).missing == ()


def test_init_cfg_loads_with_and_without_prefix(tmp_path, weights):
    path = save(tmp_path / "det.pth", {"state_dict": {f"backbone.{name}": value for name, value in weights.items()}})
    for extra in ({}, {"prefix": "backbone."}, {"prefix": "backbone"}):
        model = ConvNeXt(SMALL, init_cfg=dict(type="Pretrained", checkpoint=str(path), **extra))
        model.init_weights()
        assert torch.equal(model.stages[2][2].gamma, weights["stages.2.2.gamma"])


def test_detector_file_brings_its_output_norms(tmp_path, weights):
    norms = {f"norm{stage}.{kind}": torch.rand(8 * 2**stage) for stage in range(4) for kind in ("weight", "bias")}
    path = save(tmp_path / "det.pth", {f"backbone.{name}": value for name, value in (weights | norms).items()})
    model = ConvNeXt(SMALL)
    assert load_weights(model, path).new == ()
    assert torch.equal(model.norm3.weight, norms["norm3.weight"])


def test_backbone_without_its_top_loads_the_rest():
    report = load_weights(ConvNeXt(SMALL, out_indices=(0, 1)), OFFICIAL)
    assert report.missing == ()
    assert "stages.3.0.gamma" in report.unexpected


def test_one_missing_tensor_is_an_error_and_nothing_is_loaded(tmp_path, weights):
    del weights["stages.2.1.dwconv.weight"]
    model = ConvNeXt(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = save(tmp_path / "weights.pth", weights)
    with pytest.raises(ValueError, match=r"1 missing.*Not loaded: stages\.2\.1\.dwconv\.weight"):
        load_weights(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert load_weights(model, path, allow_partial=True).missing == ("stages.2.1.dwconv.weight",)


def test_another_size_of_model_is_an_error(weights):
    wide = ConvNeXt(dict(depths=SMALL["depths"], channels=(16, 16, 32, 64)))
    with pytest.raises(
        ValueError, match=r"downsample_layers\.0\.0\.weight \(file \(8, 3, 4, 4\), model \(16, 3, 4, 4\)"
    ):
        load_weights(wide, OFFICIAL)


def test_deeper_model_names_up_to_ten_tensors():
    with pytest.raises(ValueError, match=r"and \d+ more"):
        load_weights(ConvNeXt("atto"), OFFICIAL)


@pytest.mark.parametrize(
    ("prefix", "text"),
    [("neck.", r"nothing under prefix='neck\.'; it holds \d+ tensors such as"), (None, "two/|under 'a.', 'b.'")],
)
def test_wrong_or_ambiguous_prefix_is_an_error(tmp_path, weights, prefix, text):
    if prefix is None:
        weights = {f"{part}.{name}": value for part in "ab" for name, value in weights.items()}
    with pytest.raises(ValueError, match=text):
        load_weights(ConvNeXt(SMALL), save(tmp_path / "weights.pth", weights), prefix=prefix)


def test_file_of_another_network_is_an_error(tmp_path):
    path = save(tmp_path / "resnet.pth", {"conv1.weight": torch.rand(1), "fc.weight": torch.rand(1)})
    with pytest.raises(ValueError, match=r"has the stem of a ConvNeXt .* nowhere; it holds 2 tensors such as conv1"):
        load_weights(ConvNeXt(SMALL), path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Checkpoint .*none\.pth does not exist"):
        read_checkpoint(tmp_path / "none.pth")


def test_empty_file_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    path.touch()
    with pytest.raises(ValueError, match=r"weights\.pth is empty"):
        read_checkpoint(path)


def test_web_page_is_not_weights(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_text("\n<!DOCTYPE html><html><body>404</body></html>")
    with pytest.raises(ValueError, match=r"is a web page, not weights"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_file_is_named(tmp_path, weights, kept, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        shutil.copy(OFFICIAL, path)
    else:
        save_file(weights, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=rf"weights{suffix} is damaged or not a checkpoint \(\d+ bytes\)"):
        read_checkpoint(path)


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path, legacy):
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"model": Attack(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"asks for more than tensors and plain values, so it was not loaded"):
        read_checkpoint(path)
    assert not marker.exists()


def test_plain_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Attack(marker)))
    with pytest.raises(ValueError, match=r"weights\.pth"):
        read_checkpoint(path)
    assert not marker.exists()


def test_unlisted_class_is_refused(tmp_path):
    path = save(tmp_path / "weights.pth", {"model": {}, "args": argparse.Namespace(lr=1.0)})
    with pytest.raises(ValueError, match=r"argparse\.Namespace"):
        read_checkpoint(path)
