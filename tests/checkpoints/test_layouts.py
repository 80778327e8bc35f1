"""Every layout is detected from its keys and converts to the official weights, bit by bit.

Features are those that the code of each layout gave for the files in tests/fixtures. Layouts without such a file are
written out in documented_names.py from the names that their code bases document."""

import itertools

import numpy as np
import pytest
import torch
from documented_names import (
    CHANNELS,
    DATA,
    DEPTHS,
    body_of,
    hugging_face_dinov3_names,
    mmpretrain_names,
    rename,
    timm_names,
    to_minkowski,
)
from safetensors.torch import save_file

from convnext_dense.checkpoints import WRITABLE, convert_state_dict, detect_layout, load_weights, read_checkpoint
from convnext_dense.models import ConvNeXt

SMALL = dict(depths=DEPTHS, channels=CHANNELS)
FILES = {
    "official_v1": "official",
    "timm_v1": "timm",
    "torchvision": "torchvision",
    "hf_v1": "huggingface",
    "mmpretrain_v1": "mmpretrain",
}


def assert_equal(weights, expected):
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0, msg=name)


def bare(content):
    return content.get("model") or content.get("state_dict") or content


@pytest.mark.parametrize(("file", "layout"), FILES.items())
def test_file_gives_the_features_of_the_code_that_wrote_it(file, layout):
    golden = np.load(DATA / f"{file}.npz")
    model = ConvNeXt(SMALL, output_norms="none").eval()
    report = load_weights(model, DATA / f"{file}.pth")
    assert (report.layout, report.missing, report.new) == (layout, (), ())
    with torch.no_grad():
        features = model(torch.from_numpy(golden["image"]))
    for stage, feature in enumerate(features):
        np.testing.assert_allclose(feature.numpy(), golden[f"raw{stage}"], rtol=1e-5, atol=1e-5)


def test_mmpretrains_last_norm_is_the_output_norm_of_the_last_stage():
    golden = np.load(DATA / "mmpretrain_v1.npz")
    model = ConvNeXt(SMALL, output_norms="last").eval()
    assert load_weights(model, DATA / "mmpretrain_v1.pth").new == ()
    with torch.no_grad():
        feature = model(torch.from_numpy(golden["image"]))[-1]
    np.testing.assert_allclose(feature.numpy(), golden["norm3"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("file", "layout"), FILES.items())
@pytest.mark.parametrize("to", WRITABLE)
def test_round_trip_is_bit_exact(file, layout, to):
    weights = bare(read_checkpoint(DATA / f"{file}.pth"))
    there = convert_state_dict(weights, to)
    assert detect_layout(there) == to
    back = convert_state_dict(there, layout)
    assert list(back) == list(weights)
    assert_equal(back, weights)


@pytest.mark.parametrize("to", sorted(set(WRITABLE) - {"torchvision"}))
def test_round_trip_of_v2_is_bit_exact(official_v2, to):
    assert_equal(convert_state_dict(convert_state_dict(official_v2, to)), official_v2)


def test_torchvision_has_no_place_for_v2(official_v2):
    with pytest.raises(
        ValueError, match=r"14 tensors, such as stages\.0\.0\.grn\.gamma, .* no place in the torchvision"
    ):
        convert_state_dict(official_v2, "torchvision")


def with_conv_mlp(weights):
    return {
        name: tensor[:, :, None, None] if name.endswith(("fc1.weight", "fc2.weight")) else tensor
        for name, tensor in weights.items()
    }


def with_flat_grn(weights):
    return {name: tensor.reshape(-1) if ".grn." in name else tensor for name, tensor in weights.items()}


def prefixed(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


# layout -> (version, whether it has the final norm, whether it has the classifier, weights from official ones)
DOCUMENTED = {
    "timm": (1, True, True, lambda w: rename(w, timm_names())),
    "timm, 1x1 convolutions": (1, True, True, lambda w: with_conv_mlp(rename(w, timm_names()))),
    "timm, V2": (2, True, True, lambda w: with_flat_grn(rename(w, timm_names()))),
    "timm_features": (1, False, False, lambda w: rename(w, timm_names("_"))),
    "timm_features, V2": (2, False, False, lambda w: with_conv_mlp(with_flat_grn(rename(w, timm_names("_"))))),
    "mmpretrain": (1, True, True, lambda w: rename(w, mmpretrain_names())),
    "mmpretrain, V2": (2, True, True, lambda w: with_flat_grn(rename(w, mmpretrain_names()))),
    "huggingface_dinov3": (1, True, False, lambda w: rename(w, hugging_face_dinov3_names())),
    "huggingface_dinov3, new": (
        1,
        True,
        False,
        lambda w: {
            name if name.startswith("layer_norm.") else f"model.{name}": tensor
            for name, tensor in rename(w, hugging_face_dinov3_names()).items()
        },
    ),
    "dinov3": (
        1,
        True,
        False,
        lambda w: (
            {k: v for k, v in w.items() if not k.startswith("head.")}
            | {"norms.3.weight": w["norm.weight"], "norms.3.bias": w["norm.bias"]}
        ),
    ),
    "eupe": (
        1,
        True,
        False,
        lambda w: (
            {k: v for k, v in w.items() if not k.startswith("head.")}
            | {"norms.3.weight": w["norm.weight"], "projectors.0.weight": torch.rand(3, 3)}
        ),
    ),
    "lightly_train": (
        1,
        True,
        False,
        lambda w: prefixed("_model_wrapper._model.", {k: v for k, v in w.items() if not k.startswith("head.")}),
    ),
    "open_clip": (
        1,
        True,
        False,
        lambda w: (
            prefixed(
                "visual.trunk.", {k: v for k, v in rename(w, timm_names()).items() if not k.startswith("head.fc.")}
            )
            | {
                "visual.head.proj.weight": torch.rand(5, 64),
                "logit_scale": torch.ones(()),
                "ln_final.bias": torch.rand(3),
            }
        ),
    ),
    "official, V2 as self-supervised training writes it": (2, False, False, lambda w: body_of(w)),
    "official_sparse": (
        2,
        False,
        False,
        lambda w: to_minkowski(w) | {"mask_token": torch.rand(1, 5, 1, 1), "decoder.0.dwconv.weight": torch.rand(4)},
    ),
}


@pytest.mark.parametrize("case", DOCUMENTED)
def test_documented_names_give_the_official_weights(case, official_v1, official_v2, tmp_path):
    version, has_norm, has_head, make = DOCUMENTED[case]
    official = official_v1 if version == 1 else official_v2
    weights = make(official)
    left_out = () if has_head else ("head.",)
    left_out += () if has_norm else ("norm.",)
    expected = (
        {name: tensor for name, tensor in official.items() if not name.startswith(left_out)} if left_out else official
    )
    assert detect_layout(weights) == case.partition(",")[0]
    assert_equal(convert_state_dict(weights), expected)

    model = ConvNeXt(
        SMALL, use_grn=version == 2, layer_scale_init_value=1e-6 if version == 1 else 0.0, output_norms="none"
    )
    for name, content in enumerate([weights, prefixed("module.", weights), {"state_dict": weights}]):
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        report = load_weights(model, path)
        assert report.layout == case.partition(",")[0]
        assert_equal(model.state_dict(), with_flat_grn(body_of(official)))


@pytest.mark.parametrize("shape", [(1, 1, 1, -1), (1, -1), (-1,)])
def test_grn_is_read_in_every_shape_it_was_written_in(official_v2, shape):
    weights = {name: tensor.reshape(shape) if ".grn." in name else tensor for name, tensor in official_v2.items()}
    assert_equal(convert_state_dict(weights), official_v2)


@pytest.mark.parametrize(
    ("to", "shape"),
    [("official", (1, 1, 1, 32)), ("huggingface", (1, 1, 1, 32)), ("timm", (32,)), ("mmpretrain", (32,))],
)
@pytest.mark.parametrize("ours", [False, True])
def test_grn_is_written_in_the_shape_of_the_code_that_reads_it(official_v2, to, shape, ours):
    """facebookresearch/ConvNeXt-V2@25538957 models/utils.py; transformers' ConvNextV2GRN; timm's and mmpretrain's."""
    weights = ConvNeXt(SMALL, use_grn=True, layer_scale_init_value=0.0).state_dict() if ours else official_v2
    written = convert_state_dict(weights, to, part="backbone")
    assert {tensor.shape for name, tensor in written.items() if ".grn." in name and tensor.numel() == 32} == {shape}


@pytest.mark.parametrize("layout", ["dinov3", "eupe", "huggingface_dinov3", "lightly_train"])
def test_norm_that_was_trained_on_patches_is_the_output_norm_of_the_last_stage(layout, official_v1, tmp_path):
    torch.save(DOCUMENTED[layout][3](official_v1), tmp_path / "weights.pth")
    model = ConvNeXt(SMALL, output_norms="last")
    assert load_weights(model, tmp_path / "weights.pth").new == ()
    assert torch.equal(model.norm3.weight, official_v1["norm.weight"])


@pytest.mark.parametrize(
    ("place", "has_head", "is_trained_on_map"),
    [
        ("convnext_tiny.dinov3_lvd1689m.safetensors", False, True),
        ("models--timm--convnext_tiny.dinov3_lvd1689m/model.safetensors", False, True),
        ("convnext_tiny.eupe_lvd1689m/model.safetensors", False, True),
        ("convnext_tiny.dinov3_lvd1689m.safetensors", True, False),  # a classifier that was trained on top
        ("convnext_tiny.fb_in22k.safetensors", False, False),
        ("dinov3/work_dirs/run/model.safetensors", False, False),
    ],
)
def test_timms_copies_of_weights_trained_on_patches_are_known_by_their_source(
    official_v1, tmp_path, place, has_head, is_trained_on_map
):
    weights = rename(official_v1, timm_names())
    kept = {name: tensor for name, tensor in weights.items() if has_head or not name.startswith("head.fc.")}
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, tmp_path / place)
    model = ConvNeXt(SMALL, output_norms="last")
    assert load_weights(model, tmp_path / place).new == (() if is_trained_on_map else ("norm3.weight", "norm3.bias"))
    assert torch.equal(model.norm3.weight, official_v1["norm.weight"]) == is_trained_on_map


def test_norm_that_was_trained_on_pooled_vectors_is_not_an_output_norm(tmp_path):
    model = ConvNeXt(SMALL, output_norms="last")
    assert load_weights(model, DATA / "torchvision.pth").new == ("norm3.weight", "norm3.bias")
    assert torch.equal(model.norm3.weight, torch.ones(64))


def test_norm_before_pooling_survives_a_round_trip(official_v1):
    weights = rename(official_v1, timm_names())
    weights = {name.replace("head.norm.", "norm_pre."): tensor for name, tensor in weights.items()}
    official = convert_state_dict(weights)
    assert torch.equal(official["norm3.weight"], official_v1["norm.weight"])
    back = convert_state_dict(official, "timm")
    assert_equal(back, with_conv_mlp(weights))  # convnext_tiny_hnf, the model with this norm, has 1x1 convolutions
    with pytest.raises(
        ValueError, match=r"2 tensors, such as norm3\.weight, norm3\.bias, have no place in the torchvis"
    ):
        convert_state_dict(official, "torchvision")


def test_output_norms_of_hugging_faces_backbone_are_ours(official_v1):
    dense = body_of(official_v1) | {
        f"norm{stage}.{kind}": torch.rand(8 * 2**stage) for stage in range(4) for kind in ("weight", "bias")
    }
    written = convert_state_dict(dense, "huggingface")
    assert torch.equal(written["hidden_states_norms.stage4.bias"], dense["norm3.bias"])
    assert_equal(convert_state_dict(written), dense)


def test_isotropic_network_is_recognised_and_keeps_its_names():
    """facebookresearch/ConvNeXt@048efcea models/convnext_isotropic.py."""
    weights = {"stem.weight": torch.rand(4, 3, 16, 16), "stem.bias": torch.rand(4), "norm.weight": torch.rand(4)}
    for block, part in itertools.product(range(3), ("dwconv", "norm", "pwconv1", "pwconv2")):
        shape = dict(dwconv=(4, 1, 7, 7), norm=(4,), pwconv1=(16, 4), pwconv2=(4, 16))[part]
        weights |= {f"blocks.{block}.{part}.weight": torch.rand(shape), f"blocks.{block}.{part}.bias": torch.rand(4)}
    assert detect_layout(weights) == "official_isotropic"
    assert_equal(convert_state_dict({"model": weights}, "official", part="backbone"), weights)


def test_two_networks_in_one_file_have_no_single_layout(official_v1):
    weights = prefixed("student.", official_v1) | prefixed("teacher.", official_v1)
    with pytest.raises(ValueError, match=r"several ConvNeXts, under 'student\.', 'teacher\.'"):
        detect_layout(weights)


def test_weights_of_another_network_have_no_layout():
    with pytest.raises(ValueError, match=r"no ConvNeXt of any known layout among 2 tensors such as conv1\.weight, fc"):
        detect_layout({"conv1.weight": torch.rand(1), "fc.weight": torch.rand(1)})
