"""Converted files: content, metadata, and the output of the command."""

import hashlib
from pathlib import Path

import pytest
import torch
from documented_names import DATA
from safetensors import safe_open
from safetensors.torch import load_file

from convnext_dense.checkpoints import WRITABLE, convert_checkpoint, convert_state_dict, load_weights
from convnext_dense.checkpoints.licences import find_licence
from convnext_dense.models import ConvNeXt

ROOT = Path(__file__).parents[2]
TIMM = DATA / "timm_v1.pth"
SHA256 = hashlib.sha256(TIMM.read_bytes()).hexdigest()
ORIGIN = {"source": str(TIMM), "sha256": SHA256, "licence": "unknown"}
SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))


@pytest.mark.parametrize("to", WRITABLE)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_file_carries_weights_source_hash_and_licence(tmp_path, to, suffix):
    out = tmp_path / f"out{suffix}"
    line = convert_checkpoint(TIMM, out, to=to)
    expected = convert_state_dict(torch.load(TIMM, weights_only=True), to)
    assert line.startswith(
        f"Wrote 83 of 83 tensors to {out}: ConvNeXt with depths 2, 1, 3, 1; channels 8, 16, 32, 64, "
        f"from layout timm to {to}"
    )
    assert f"sha256 {SHA256}, licence of the weights unknown." in line
    if suffix == ".safetensors":
        weights = load_file(out)
        with safe_open(out, framework="pt") as file:
            assert file.metadata() == {"format": "pt", **ORIGIN}
    else:
        content = torch.load(out, weights_only=True)
        wrapper = {"official": "model", "mmpretrain": "state_dict"}.get(to)
        weights = content[wrapper] if wrapper else content
        assert (content["meta"] if wrapper else content.meta) == ORIGIN
    assert set(weights) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
    assert load_weights(ConvNeXt(SMALL), out).missing == ()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("between", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("layout", ["timm", "mmpretrain"])
def test_second_conversion_keeps_the_first_source(tmp_path, between, layout):
    convert_checkpoint(TIMM, tmp_path / between, to=layout)
    convert_checkpoint(tmp_path / between, tmp_path / "b.pth", to="official")
    assert torch.load(tmp_path / "b.pth", weights_only=True)["meta"] == ORIGIN


def test_backbone_alone_has_no_classifier(tmp_path):
    convert_checkpoint(TIMM, tmp_path / "out.safetensors", to="official", part="backbone")
    written = load_file(tmp_path / "out.safetensors")
    assert len(written) == 81
    assert "norm.weight" in written
    assert "head.weight" not in written


@pytest.mark.parametrize(
    ("source", "layout", "licence"),
    [
        ("https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth", "official", "MIT"),
        ("weights/convnext_xlarge_22k_1k_384_ema.pth", "official", "MIT"),
        (
            "https://dl.fbaipublicfiles.com/convnext/coco/cascade_mask_rcnn_convnext_base_22k_3x.pth",
            "official_dense",
            "MIT",
        ),
        ("upernet_convnext_tiny_1k_512x512.pth", "official_dense", "MIT"),
        ("timm:convnext_tiny.fb_in22k_ft_in1k", "timm", "MIT"),
        ("convnext_iso_small_1k_224_ema.pth", "official_isotropic", "MIT"),
        ("convnextv2/im1k/convnextv2_atto_1k_224_ema.pt", "official", "CC-BY-NC-4.0"),
        ("convnextv2_huge_1k_224_fcmae.pt", "official", "CC-BY-NC-4.0"),
        ("timm:convnextv2_tiny.fcmae_ft_in22k_in1k", "timm", "CC-BY-NC-4.0"),
        ("hf:facebook/convnextv2-tiny-1k-224", "huggingface", "CC-BY-NC-4.0"),
        ("dinov3_convnext_tiny_pretrain_lvd1689m-21b726bb.pth", "dinov3", "DINOv3 License"),
        ("timm:convnext_tiny.dinov3_lvd1689m", "timm", "DINOv3 License"),
        ("renamed.pth", "huggingface_dinov3", "DINOv3 License"),
        ("timm:convnext_tiny.eupe_lvd1689m", "timm", "FAIR Noncommercial Research License"),
        ("convnext_tiny-983f1562.pth", "torchvision", "unknown"),
        ("my_convnext_tiny_1k_224.pth", "official", "unknown"),
        ("dinov3/epoch_3.pth", "official", "unknown"),
    ],
)
def test_licence_is_that_of_the_release_or_unknown(source, layout, licence):
    assert find_licence(source, layout) == licence


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (dict(to="caffe"), r"to='caffe' is not a layout that can be written; there are official, timm, torchvision, "),
        (dict(part="head"), r"part='head' must be one of all, backbone"),
    ],
)
def test_unknown_layout_or_part_is_an_error(arguments, text):
    with pytest.raises(ValueError, match=text):
        convert_state_dict({}, **arguments)


def test_other_ending_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"OUT=.*out\.onnx must end in \.safetensors, \.pth or \.pt"):
        convert_checkpoint(TIMM, tmp_path / "out.onnx", to="timm")


def test_one_tensor_under_two_names_is_an_error(official_v1):
    with pytest.raises(ValueError, match=r"one place, backbone\.norm3\.weight, for norm3\.weight and another tensor"):
        convert_state_dict(official_v1 | {"norm3.weight": official_v1["norm.weight"]}, "mmpretrain")


def test_command_converts_probes_and_explains_itself(run_tool, tmp_path):
    code, out, _ = run_tool(
        "convert_checkpoint.py", TIMM, tmp_path / "out.safetensors", "--to", "torchvision", "--part", "backbone"
    )
    assert code == 0
    assert out.startswith("Wrote 81 of 83 tensors to ")
    code, out, _ = run_tool("convert_checkpoint.py", tmp_path / "out.safetensors", "--probe")
    assert code == 0
    assert "layout torchvision, ConvNeXt with depths 2, 1, 3, 1" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["none.pth", "--probe"], 1, "Error: Checkpoint none.pth does not exist.\n"),
        ([TIMM], 2, "give OUT and --to LAYOUT, or --probe"),
        ([TIMM, "out.pth", "--probe"], 2, "--probe writes nothing"),
        ([TIMM, "out.pth", "--to", "caffe"], 2, "invalid choice: 'caffe'"),
    ],
)
def test_command_ends_with_one_sentence_and_an_exit_code(run_tool, arguments, code, text):
    actual, out, err = run_tool("convert_checkpoint.py", *arguments)
    assert (actual, out) == (code, "")
    assert text in err
