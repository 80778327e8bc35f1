"""Weights that decay under the constructors that configs use: those of mmdet, mmseg, mmengine and this package.

The list is made by hand from the papers: kernels of convolutions and matrices of linear layers decay; biases, norms,
layer scale and global response normalisation do not (facebookresearch/ConvNeXt@048efcea optim_factory.py,
facebookresearch/ConvNeXt-V2@25538957 optim_factory.py)."""

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from torch import nn

from convnext_dense.models import ConvNeXt, IsotropicConvNeXt

SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))
V1 = dict(layer_scale_init_value=1e-6)
V2 = dict(layer_scale_init_value=0.0, use_grn=True)
STEM = "downsample_layers.0.0.weight"
BETWEEN = [f"downsample_layers.{stage}.1.weight" for stage in (1, 2, 3)]
BLOCKS = [f"stages.{stage}.{block}" for stage, depth in enumerate((2, 1, 3, 1)) for block in range(depth)]
IN_BLOCKS = [f"{block}.{part}.weight" for block in BLOCKS for part in ("dwconv", "pwconv1", "pwconv2")]
DECAYING = {"head.weight", *(f"backbone.{name}" for name in (STEM, *BETWEEN, *IN_BLOCKS))}


class Detector(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(4, 4)


def decaying(model, constructor, **paramwise_cfg):
    init_default_scope(constructor.split(".")[0])
    optimizer = dict(type="AdamW", lr=1e-4, weight_decay=0.05)
    build = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type=constructor,
            optim_wrapper_cfg=dict(type="OptimWrapper", optimizer=optimizer),
            paramwise_cfg=paramwise_cfg,
        )
    )
    names = {id(param): name for name, param in model.named_parameters()}
    groups = build(model).optimizer.param_groups
    found = {names[id(param)]: group["weight_decay"] for group in groups for param in group["params"]}
    assert set(found) == set(names.values())
    return {name for name, weight_decay in found.items() if weight_decay}


@pytest.mark.parametrize("version", [V1, V2], ids=["V1", "V2"])
@pytest.mark.parametrize(
    ("constructor", "paramwise_cfg"),
    [
        ("mmdet.LearningRateDecayOptimizerConstructor", dict(decay_rate=0.95, decay_type="layer_wise", num_layers=6)),
        ("mmdet.LearningRateDecayOptimizerConstructor", dict(decay_rate=0.7, decay_type="stage_wise", num_layers=6)),
        ("mmseg.LearningRateDecayOptimizerConstructor", dict(decay_rate=0.9, decay_type="stage_wise", num_layers=6)),
        ("mmengine.DefaultOptimWrapperConstructor", dict(flat_decay_mult=0.0)),
        ("convnext_dense.LayerDecayOptimWrapperConstructor", dict(decay_rate=0.9)),
    ],
)
def test_kernels_and_matrices_decay_and_nothing_else(version, constructor, paramwise_cfg):
    import mmdet.engine
    import mmseg.engine

    assert mmdet.engine
    assert mmseg.engine
    assert decaying(Detector(ConvNeXt(SMALL, **version)), constructor, **paramwise_cfg) == DECAYING


@pytest.mark.parametrize("version", [V1, V2], ids=["V1", "V2"])
def test_norms_of_both_versions_follow_mmengines_rule_for_norms(version):
    """For mmengine, layer scale is neither a norm nor a bias, in any package."""
    found = decaying(
        Detector(ConvNeXt(SMALL, **version)),
        "mmengine.DefaultOptimWrapperConstructor",
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
    )
    scales = {f"backbone.{block}.gamma" for block in BLOCKS} if version is V1 else set()
    assert found == DECAYING | scales


def test_depthwise_kernels_follow_mmengines_rule_for_them():
    found = decaying(
        Detector(ConvNeXt(SMALL, **V2)),
        "mmengine.DefaultOptimWrapperConstructor",
        dwconv_decay_mult=0.0,
        flat_decay_mult=0.0,
    )
    assert found == {name for name in DECAYING if "dwconv" not in name}


def test_isotropic_network_decays_where_the_others_do():
    model = Detector(IsotropicConvNeXt(dict(depth=2, channels=16), layer_scale_init_value=1e-6))
    blocks = {f"blocks.{block}.{part}.weight" for block in (0, 1) for part in ("dwconv", "pwconv1", "pwconv2")}
    kernels = {"stem.weight", "levels.0.0.weight", "levels.0.3.weight", "levels.1.weight"}
    expected = {"head.weight", *(f"backbone.{name}" for name in blocks | kernels)}
    for constructor, options in (
        ("mmengine.DefaultOptimWrapperConstructor", dict(flat_decay_mult=0.0)),
        ("convnext_dense.LayerDecayOptimWrapperConstructor", dict(decay_rate=0.9)),
    ):
        assert decaying(model, constructor, **options) == expected


@pytest.mark.parametrize("version", [V1, V2], ids=["V1", "V2"])
def test_numbers_of_dimensions_are_those_of_mmpretrains_and_timms_parameters(version):
    """Constructors decide by the number of dimensions what decays; GRN is (C,) in mmpretrain and in timm."""
    import timm

    theirs = timm.models.convnext.ConvNeXt(
        num_classes=0,
        depths=SMALL["depths"],
        dims=SMALL["channels"],
        use_grn="use_grn" in version,
        ls_init_value=version["layer_scale_init_value"] or None,
    )
    ours = ConvNeXt(SMALL, output_norms="none", **version)
    flat = [sorted(tuple(p.shape) for p in model.parameters() if p.dim() == 1) for model in (ours, theirs)]
    kernels = [sum(p.dim() > 1 for p in model.parameters()) for model in (ours, theirs)]
    final_norm = [(64,), (64,)]
    assert sorted(flat[0] + final_norm) == flat[1]
    assert kernels[0] == kernels[1]


@pytest.mark.parametrize("shape", [(-1,), (1, -1), (1, 1, 1, -1)])
@pytest.mark.parametrize("load", ["torch", "mmengine"])
@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_state_of_every_shape_of_grn_is_taken(shape, load, frozen_stages):
    from mmengine.runner.checkpoint import load_state_dict

    model = ConvNeXt(SMALL, frozen_stages=frozen_stages, **V2)
    state = {}
    for seed, (name, tensor) in enumerate(model.state_dict().items()):
        state[name] = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    given = {name: tensor.reshape(shape) if ".grn." in name else tensor for name, tensor in state.items()}
    before = {name: tensor.shape for name, tensor in given.items()}
    if load == "torch":
        model.load_state_dict(given)
    else:
        load_state_dict(model, given, strict=True)
    assert {name: tensor.shape for name, tensor in given.items()} == before  # they belong to the caller
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    model.train()(torch.rand(1, 3, 32, 32))  # no frozen weight counts as random
