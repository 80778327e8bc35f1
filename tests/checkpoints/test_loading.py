"""A load is complete or an error. Files come from the official implementation, or are damaged copies of its files."""

import argparse
import functools
import hashlib
import logging
import pickle
import shutil
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convnext_dense.checkpoints import convert_state_dict, fetch, load_weights, read_checkpoint
from convnext_dense.checkpoints.architecture import describe
from convnext_dense.models import VARIANTS, ConvNeXt, IsotropicConvNeXt

OFFICIAL = Path(__file__).parents[1] / "fixtures" / "official_v1.pth"
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
    assert str(report) == (
        f"Loaded {len(body)} of {len(body) + 8} tensors from {OFFICIAL}: 8 output norms are new, 0 missing, "
        "0 of another shape, 0 reshaped, 4 in the file are not used; layout official, "
        f"sha256 {hashlib.sha256(OFFICIAL.read_bytes()).hexdigest()}."
    )


def test_every_load_is_logged_in_one_line(tmp_path, caplog):
    path = shutil.copy(OFFICIAL, tmp_path / "logged.pth")
    with caplog.at_level(logging.INFO, logger="mmengine"):
        report = load_weights(ConvNeXt(SMALL), path)
        deadline = time.monotonic() + 60  # the line is logged once the file is hashed
        while not any("logged.pth" in line for line in caplog.messages) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [line for line in caplog.messages if "logged.pth" in line] == [str(report)]
    assert "\n" not in str(report)


@pytest.mark.parametrize("wrapper", ["bare", "state_dict", "module", "backbone", "safetensors"])
def test_common_wrappers_are_removed(tmp_path, weights, wrapper):
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


def test_detector_file_provides_its_output_norms(tmp_path, weights):
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
    with pytest.raises(
        ValueError,
        match=r"only 78 .*weights\.pth: .*1 missing.* fit: stages\.2\.1\.dwconv\.weight\. The file is incomplete\.",
    ):
        load_weights(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert load_weights(model, path, allow_partial=True).missing == ("stages.2.1.dwconv.weight",)


def test_one_tensor_of_another_shape_is_an_error(tmp_path, weights):
    weights["stages.2.1.dwconv.weight"] = torch.rand(32, 1, 5, 5)
    with pytest.raises(
        ValueError,
        match=r"1 of another shape.* fit: stages\.2\.1\.dwconv\.weight \(file \(32, 1, 5, 5\), model \(32, 1, 7, 7\)\)"
        r"\. The ConvNeXt is the same, but these tensors were",
    ):
        load_weights(ConvNeXt(SMALL), save(tmp_path / "weights.pth", weights))


def test_another_size_of_model_is_an_error_that_names_both(tmp_path):
    path = save(tmp_path / "small.pth", ConvNeXt("femto").state_dict())
    with pytest.raises(
        ValueError,
        match=r"downsample_layers\.0\.0\.weight \(file \(48, 3, 4, 4\), model \(40, 3, 4, 4\)\), .*"
        r"The file is a ConvNeXt femto \(depths 2, 2, 6, 2; channels 48, 96, 192, 384\), "
        r"the model a ConvNeXt atto \(depths 2, 2, 6, 2; channels 40, 80, 160, 320\)\.",
    ):
        load_weights(ConvNeXt("atto"), path)


@pytest.mark.parametrize("arch", VARIANTS)
def test_published_sizes_are_named_like_the_models(arch):
    with torch.device("meta"):
        model = ConvNeXt(arch)
    assert str(describe(model.state_dict())).startswith(f"ConvNeXt {arch} (depths ")


def test_version_2_in_a_model_of_version_1_is_an_error_that_names_both(tmp_path):
    path = save(tmp_path / "v2.pth", ConvNeXt("atto", use_grn=True, layer_scale_init_value=0.0).state_dict())
    with pytest.raises(ValueError, match=r"The file is a ConvNeXt V2 atto \(.*, the model a ConvNeXt atto \("):
        load_weights(ConvNeXt("atto"), path)


def test_deeper_model_names_up_to_ten_tensors():
    with pytest.raises(ValueError, match=r"and \d+ more"):
        load_weights(ConvNeXt("atto"), OFFICIAL)


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("neck.", r"nothing under prefix='neck\.'; it holds \d+ tensors such as"),
        (None, r"several ConvNeXts, under 'a\.', 'b\.': choose one with prefix="),
    ],
)
def test_wrong_or_ambiguous_prefix_is_an_error(tmp_path, weights, prefix, text):
    if prefix is None:
        weights = {f"{part}.{name}": value for part in "ab" for name, value in weights.items()}
    with pytest.raises(ValueError, match=text):
        load_weights(ConvNeXt(SMALL), save(tmp_path / "weights.pth", weights), prefix=prefix)


def test_file_of_another_network_is_an_error(tmp_path):
    path = save(tmp_path / "resnet.pth", {"conv1.weight": torch.rand(1), "fc.weight": torch.rand(1)})
    with pytest.raises(ValueError, match=r"has no ConvNeXt of any known layout; it holds 2 tensors such as conv1"):
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
    with pytest.raises(
        ValueError, match=r"asks for more than tensors and plain values \(pathlib\.(_local\.)?Path\): it was not"
    ):
        read_checkpoint(path)
    assert not marker.exists()


def test_plain_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Attack(marker)))
    with pytest.raises(ValueError, match=r"weights\.pth"):
        read_checkpoint(path)
    assert not marker.exists()


def test_unlisted_class_is_refused_by_name(tmp_path):
    path = save(tmp_path / "weights.pth", {"model": {}, "out": Path("runs")})
    with pytest.raises(
        ValueError, match=r"asks for more than tensors and plain values \(pathlib\.(_local\.)?\w*Path\)"
    ):
        read_checkpoint(path)


def training_file(weights):
    """What facebookresearch/ConvNeXt@048efcea main.py saves."""
    average = {name: tensor + 1 for name, tensor in weights.items()}
    args = argparse.Namespace(lr=4e-3, model="convnext_tiny", betas=[0.9, 0.999], data_path=None)
    return {"model": weights, "model_ema": average, "optimizer": {"state": {}}, "epoch": 3, "args": args}


@pytest.mark.parametrize("legacy", [False, True])
def test_official_training_file_with_its_arguments_is_read(tmp_path, weights, legacy):
    path = tmp_path / "checkpoint-3.pth"
    torch.save(training_file(weights), path, _use_new_zipfile_serialization=not legacy)
    assert not isinstance(read_checkpoint(path)["args"], argparse.Namespace)
    model = ConvNeXt(SMALL)
    load_weights(model, path)
    assert torch.equal(model.stages[2][2].gamma, weights["stages.2.2.gamma"])


def test_moving_average_is_loaded_on_demand_or_if_nothing_else_is_there(tmp_path, weights):
    content = training_file(weights)
    path = save(tmp_path / "both.pth", content)
    del content["model"]
    for source, prefix in ((path, "model_ema."), (save(tmp_path / "average.pth", content), None)):
        model = ConvNeXt(SMALL)
        load_weights(model, source, prefix=prefix)
        assert torch.equal(model.stages[2][2].gamma, weights["stages.2.2.gamma"] + 1)


def test_allowing_the_arguments_of_training_files_allows_nothing_else(tmp_path):
    marker = tmp_path / "ran"
    path = save(tmp_path / "weights.pth", {"model": {}, "args": argparse.Namespace(out=Attack(marker))})
    with pytest.raises(ValueError, match=r"asks for more than tensors and plain values"):
        read_checkpoint(path)
    assert not marker.exists()
    with pytest.raises(pickle.UnpicklingError, match="argparse"):
        torch.load(save(tmp_path / "args.pth", {"args": argparse.Namespace()}), weights_only=True)


@pytest.mark.parametrize("in_channels", [1, 2, 4, 5, 6, 9])
def test_grey_image_gives_the_same_activations_with_any_number_of_channels(in_channels):
    """The scale is kept: an image with equal channels gives the same output of the stem as before."""
    three, other = ConvNeXt(SMALL).eval(), ConvNeXt(SMALL, in_channels).eval()
    load_weights(three, OFFICIAL)
    report = load_weights(other, OFFICIAL)
    assert report.reshaped == ("downsample_layers.0.0.weight",)
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        for ours, expected in zip(
            other(grey.expand(-1, in_channels, -1, -1)), three(grey.expand(-1, 3, -1, -1)), strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_more_channels_repeat_the_files_in_turn_and_share_them_out(weights):
    model = ConvNeXt(SMALL, 5)
    load_weights(model, OFFICIAL)
    stem, in_file = model.downsample_layers[0][0].weight, weights["downsample_layers.0.0.weight"]
    red, green, blue = in_file.unbind(1)
    torch.testing.assert_close(stem, torch.stack([red / 2, green / 2, blue, red / 2, green / 2], 1), rtol=0, atol=0)


def test_fewer_channels_take_the_mean_of_the_files(weights):
    model = ConvNeXt(SMALL, 1)
    load_weights(model, OFFICIAL)
    in_file = weights["downsample_layers.0.0.weight"]
    torch.testing.assert_close(model.downsample_layers[0][0].weight, in_file.sum(1, keepdim=True))


def test_loading_in_groups_loads_everything(monkeypatch, weights):
    monkeypatch.setattr("convnext_dense.checkpoints.loading._GROUP_BYTES", 1000)
    model = ConvNeXt(SMALL, output_norms="none")
    load_weights(model, OFFICIAL)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_training_with_a_random_frozen_stage_is_an_error(tmp_path, weights):
    model = ConvNeXt(SMALL, frozen_stages=2)
    image = torch.rand(1, 3, 32, 32)
    del weights["stages.1.0.gamma"]
    load_weights(model, save(tmp_path / "weights.pth", weights), allow_partial=True)
    with pytest.raises(
        ValueError, match=r"frozen_stages=2 would keep 1 tensors at .* such as stages\.1\.0\.gamma: load"
    ):
        model(image)
    model.eval()(image)
    load_weights(model, OFFICIAL)
    model.train()(image)


def cached_on_the_hub(monkeypatch, tmp_path, repository, file):
    """A cache as huggingface_hub leaves it after a download, and no network."""
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    target = folder / "snapshots" / "c0ffee" / file
    target.parent.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return target


@pytest.mark.parametrize(
    ("source", "repository", "file"),
    [
        ("timm:convnext_small8.fb_in1k", "timm/convnext_small8.fb_in1k", "model.safetensors"),
        ("hf:facebook/convnext-8", "facebook/convnext-8", "pytorch_model.bin"),
        ("hf:laion/CLIP-convnext", "laion/CLIP-convnext", "open_clip_pytorch_model.bin"),
    ],
)
def test_timm_and_hub_names_are_looked_up_on_the_hub(monkeypatch, tmp_path, weights, source, repository, file):
    target = cached_on_the_hub(monkeypatch, tmp_path, repository, file)
    save_file(weights, target) if target.suffix == ".safetensors" else torch.save(weights, target)
    report = load_weights(ConvNeXt(SMALL), source)
    assert (report.source, report.missing) == (source, ())


@pytest.mark.parametrize("source", ["timm:convnext_tiny.none", "hf:nobody/nothing", "hf:not a name"])
def test_missing_name_on_the_hub_is_named(monkeypatch, tmp_path, source):
    cached_on_the_hub(monkeypatch, tmp_path, "timm/other", "model.safetensors")
    with pytest.raises(ValueError, match=rf"Checkpoint {source} cannot be downloaded from https://huggingface\.co/"):
        load_weights(ConvNeXt(SMALL), source)


def test_address_is_downloaded_once(monkeypatch, tmp_path, weights):
    (tmp_path / "served").mkdir()
    shutil.copy(OFFICIAL, tmp_path / "served" / "weights.pth")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/weights.pth"
        assert load_weights(ConvNeXt(SMALL), address).source == address
        with pytest.raises(
            ValueError, match=r"none\.pth could not be downloaded \(.*404.*\)\. Put the file at .*none\.pth"
        ):
            load_weights(ConvNeXt(SMALL), address.replace("weights", "none"))
        server.shutdown()
    assert load_weights(ConvNeXt(SMALL), address).missing == ()


def dense(weights):
    return weights | {
        f"norm{stage}.{kind}": torch.rand(8 * 2**stage) for stage in range(4) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_dense_file_without_one_of_its_output_norms_is_incomplete(tmp_path, weights, stage, kind, prefix):
    """Output norms may be new only with the file of a classifier, which has none of them."""
    torn = dense(weights)
    del torn[f"norm{stage}.{kind}"]
    path = save(tmp_path / "torn.pth", {prefix + name: tensor for name, tensor in torn.items()})
    model = ConvNeXt(SMALL)
    before = model.downsample_layers[0][0].weight.clone()
    with pytest.raises(
        ValueError, match=rf"0 output norms are new, 1 missing.* fit: norm{stage}\.{kind}\. The file is inco"
    ):
        load_weights(model, path)
    assert torch.equal(model.downsample_layers[0][0].weight, before)


@pytest.mark.parametrize("layout", ["mmpretrain", "huggingface"])
def test_dense_file_of_another_layout_without_an_output_norm_is_incomplete(tmp_path, weights, layout):
    body = {name: tensor for name, tensor in dense(weights).items() if not name.startswith(("norm.", "head."))}
    del body["norm1.weight"]
    path = save(tmp_path / "torn.pth", convert_state_dict(body, layout))
    with pytest.raises(ValueError, match=r"1 missing.* fit: norm1\.weight\. The file is incomplete"):
        load_weights(ConvNeXt(SMALL), path)


def test_dense_isotropic_file_without_a_level_is_incomplete(tmp_path):
    state = IsotropicConvNeXt(dict(depth=2, channels=16), output_norms="none").state_dict()
    path = save(tmp_path / "torn.pth", {name: tensor for name, tensor in state.items() if name != "levels.1.weight"})
    with pytest.raises(ValueError, match=r"1 missing.* fit: levels\.1\.weight\. The file is incomplete"):
        load_weights(IsotropicConvNeXt(dict(depth=2, channels=16), output_norms="none"), path)


def test_classifier_leaves_the_norms_that_a_model_has_new_and_no_other_tensor(tmp_path, weights):
    report = load_weights(ConvNeXt(SMALL, out_indices=(1, 3)), OFFICIAL)
    assert report.new == ("norm1.weight", "norm1.bias", "norm3.weight", "norm3.bias")
    del weights["stages.3.0.norm.weight"]  # a norm, but of a block
    path = save(tmp_path / "torn.pth", weights)
    with pytest.raises(ValueError, match=r"8 output norms are new, 1 missing.* fit: stages\.3\.0\.norm\.weight"):
        load_weights(ConvNeXt(SMALL), path)


def test_detectors_own_norms_are_never_left_new(tmp_path, weights):
    """A whole model is loaded completely: the file of a detector has no classifier in it."""

    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = ConvNeXt(SMALL)
            self.norm1 = torch.nn.BatchNorm2d(4)

    state = Detector().state_dict()
    for torn in (["backbone.norm1.weight"], ["norm1.weight", "norm1.bias"], ["norm1.running_mean"]):
        path = save(tmp_path / "torn.pth", {name: tensor for name, tensor in state.items() if name not in torn})
        for model in (Detector(), torch.nn.ModuleDict({"norm1": torch.nn.BatchNorm2d(4), "backbone": ConvNeXt(SMALL)})):
            with pytest.raises(ValueError, match=rf"0 output norms are new, {len(torn)} missing.* fit: {torn[0]}"):
                load_weights(model, path)
    del state["norm1.num_batches_tracked"]  # came with torch 0.4.1
    assert load_weights(Detector(), save(tmp_path / "old.pth", state)).missing == ()


def test_name_of_the_zoo_without_its_prefix_is_recognised():
    with pytest.raises(ValueError, match=r"does not exist\. .* of this name: zoo:mask_rcnn_convnext_t_3x\."):
        fetch("mask_rcnn_convnext_t_3x")
