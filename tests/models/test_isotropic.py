"""The isotropic ConvNeXt. Sizes come from arXiv 2201.03545, table 2 (published.json), expected features from
timm's ConvNeXt block, and parameter names from the official models/convnext_isotropic.py."""

from pathlib import Path

import pytest
import torch
from timm.models.convnext import ConvNeXtBlock as TimmBlock

from convnext_dense.checkpoints import load_weights
from convnext_dense.description import count_macs, count_parameters, image_on_meta
from convnext_dense.description.published import read_published
from convnext_dense.models import IsotropicConvNeXt

PUBLISHED = read_published()
SMALL = dict(depth=4, channels=16)


@pytest.mark.parametrize("arch", PUBLISHED["architectures_isotropic"])
def test_classifier_has_the_published_size(arch):
    published = PUBLISHED["architectures_isotropic"][arch]
    with torch.device("meta"):
        model = IsotropicConvNeXt(
            arch, layer_scale_init_value=published["layer_scale_init"], out_indices=(2,), output_norms="none"
        )
    assert (model.depth, model.channels[2]) == (published["depth"], published["channels"])
    width = model.channels[2]
    millions = (count_parameters(model) + 2 * width + 1000 * width + 1000) / 1e6  # final LayerNorm, linear layer
    gmacs = (count_macs(lambda: model(image_on_meta((224, 224)))) + 1000 * width) / 1e9
    assert round(millions) == published["params_M"]
    assert gmacs == pytest.approx(published["gflops_224"], rel=0.01)


def test_stride_16_map_is_timms_blocks_on_patches():
    torch.manual_seed(0)
    model = IsotropicConvNeXt(SMALL, layer_scale_init_value=0.5, out_indices=(2,), output_norms="none").eval()
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        patches = image.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(2, 4, 6, -1)
        x = (patches @ model.stem.weight.reshape(16, -1).T + model.stem.bias).permute(0, 3, 1, 2)
        for block in model.blocks:
            theirs = TimmBlock(16, 16, ls_init_value=1.0).eval()
            theirs.load_state_dict(dict(zip(theirs.state_dict(), block.state_dict().values(), strict=True)))
            x = theirs(x)
        torch.testing.assert_close(model(image)[0], x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3)])
def test_levels_have_the_strides_and_widths_of_a_plain_vit_pyramid(out_indices):
    """Quarter and half of the width at strides 4 and 8: arXiv 2203.16527, appendix A."""
    features = IsotropicConvNeXt(SMALL, out_indices=out_indices)(torch.rand(2, 3, 64, 96))
    sizes = {0: (4, 16, 24), 1: (8, 8, 12), 2: (16, 4, 6), 3: (16, 2, 3)}
    assert [tuple(feature.shape[1:]) for feature in features] == [sizes[level] for level in out_indices]


def official_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Random weights under the names of the official classifier with four blocks of width 16."""
    torch.manual_seed(1)
    weights = {"stem.weight": torch.rand(16, 3, 16, 16), "stem.bias": torch.rand(16)}
    for block in range(4):
        weights |= {
            f"blocks.{block}.dwconv.weight": torch.rand(16, 1, 7, 7),
            f"blocks.{block}.dwconv.bias": torch.rand(16),
            f"blocks.{block}.norm.weight": torch.rand(16),
            f"blocks.{block}.norm.bias": torch.rand(16),
            f"blocks.{block}.pwconv1.weight": torch.rand(64, 16),
            f"blocks.{block}.pwconv1.bias": torch.rand(64),
            f"blocks.{block}.pwconv2.weight": torch.rand(16, 64),
            f"blocks.{block}.pwconv2.bias": torch.rand(16),
        }
    tail = {"norm.weight": torch.rand(16), "norm.bias": torch.rand(16)}
    tail |= {"head.weight": torch.rand(10, 16), "head.bias": torch.rand(10)}
    torch.save({"model": weights | tail}, path)
    return weights


def test_official_classifier_loads_whole_and_levels_are_new(tmp_path):
    weights = official_checkpoint(tmp_path / "iso.pth")
    model = IsotropicConvNeXt(SMALL)
    report = load_weights(model, tmp_path / "iso.pth")
    assert set(report.loaded) == set(weights)
    assert set(report.new) == {name for name in model.state_dict() if name.startswith(("levels.", "norm"))}
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())


def test_incomplete_checkpoint_is_refused(tmp_path):
    official_checkpoint(tmp_path / "iso.pth")
    with pytest.raises(ValueError, match="these do not fit"):
        load_weights(IsotropicConvNeXt(dict(depth=5, channels=16)), tmp_path / "iso.pth")


def test_layer_ids_rise_every_three_blocks():
    model = IsotropicConvNeXt(SMALL)  # four blocks: ids 1, 1, 1, 2
    ids = {name: model.get_layer_depth(f"backbone.{name}", "backbone.") for name in model.state_dict()}
    assert ids["stem.weight"] == (0, 4)
    assert [ids[f"blocks.{block}.dwconv.weight"] for block in range(4)] == [(1, 4), (1, 4), (1, 4), (2, 4)]
    assert ids["levels.0.0.weight"] == ids["norm3.weight"] == (3, 4)
    assert model.get_layer_depth("head.weight", "backbone.") == (3, 4)


def test_feature_pyramid_of_mmdet_takes_the_levels():
    from mmdet.models.necks import FPN

    model = IsotropicConvNeXt(SMALL)
    pyramid = FPN(in_channels=list(model.channels), out_channels=8, num_outs=5)(model(torch.rand(1, 3, 64, 64)))
    assert [tuple(level.shape[2:]) for level in pyramid] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(arch="tiny"), "arch='tiny' is not an isotropic ConvNeXt variant; there are small, base, large"),
        (dict(arch=dict(depth=2)), "exactly the keys depth and channels"),
        (dict(arch=dict(depth=2, channels=18)), "a multiple of 4"),
        (dict(out_indices=(2, 1)), "must be increasing"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        IsotropicConvNeXt(**kwargs)
