"""A backbone config written for mmpretrain works after changing only its type.

Arguments and meanings are those of open-mmlab/mmpretrain v1.2.0, mmpretrain/models/backbones/convnext.py and its test,
tests/test_models/test_backbones/test_convnext.py; expected values are calculated here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import MODELS
from torch import nn

from convnext_dense.models import ConvNeXt, ImageClassifier, IsotropicConvNeXt

OFFICIAL = Path(__file__).parents[1] / "fixtures" / "official_v1.pth"
SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))
# mmpretrain's signature with its defaults
DEFAULTS = dict(
    in_channels=3,
    stem_patch_size=4,
    norm_cfg=dict(type="LN2d", eps=1e-6),
    act_cfg=dict(type="GELU"),
    linear_pw_conv=True,
    use_grn=False,
    drop_path_rate=0.0,
    layer_scale_init_value=1e-6,
    out_indices=-1,
    frozen_stages=0,
    gap_before_final_norm=True,
    with_cp=False,
    init_cfg=[
        dict(type="TruncNormal", layer=["Conv2d", "Linear"], std=0.02, bias=0.0),
        dict(type="Constant", layer=["LayerNorm"], val=1.0, bias=0.0),
    ],
)


def build(**options):
    model = MODELS.build(dict(type="convnext_dense.ConvNeXt", arch=SMALL, **options))
    model.init_weights()
    return model


def test_all_of_mmpretrains_defaults_give_its_classifiers_vector():
    model = build(**DEFAULTS)
    [feature] = model.train()(torch.rand(1, 3, 64, 64))
    assert feature.shape == (1, 64)


@pytest.mark.parametrize(
    ("out_indices", "levels"),
    [
        (-1, (3,)),
        (3, (3,)),
        (0, (0,)),
        (np.int64(2), (2,)),
        ([-1], (3,)),
        ([-4, -3, -2, -1], (0, 1, 2, 3)),
        ([0, -1], (0, 3)),
        ((1, 2, 3), (1, 2, 3)),
        (range(4), (0, 1, 2, 3)),
    ],
)
@pytest.mark.parametrize("kind", [ConvNeXt, IsotropicConvNeXt])
def test_outputs_are_counted_from_either_end(out_indices, levels, kind):
    arch = SMALL if kind is ConvNeXt else dict(depth=1, channels=16)
    model = kind(arch, out_indices=out_indices)
    assert model.out_indices == levels
    shapes = [tuple(feature.shape[1:]) for feature in model(torch.rand(1, 3, 64, 64))]
    assert shapes == [(model.channels[level], 16 >> level, 16 >> level) for level in levels]


@pytest.mark.parametrize("out_indices", [-5, 4, [0, 4], [-1, 0], [3, -1], [], "3", 1.5, True, None, [None]])
def test_outputs_that_do_not_exist_are_named(out_indices):
    with pytest.raises(ValueError, match=r"out_indices=.*(must name stages out of 0, 1, 2, 3|must be increasing)"):
        ConvNeXt(SMALL, out_indices=out_indices)


def normalise(x, eps):
    """Apply LayerNorm over axis 1 by its definition."""
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + eps)


def test_pooled_outputs_are_the_normalised_means_of_the_maps():
    torch.manual_seed(0)
    pooled = build(out_indices=[0, 1, 2, 3], gap_before_final_norm=True).eval()
    raw = build(out_indices=[0, 1, 2, 3], output_norms="none").eval()
    raw.load_state_dict(pooled.state_dict(), strict=False)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for vector, feature in zip(pooled(image), raw(image), strict=True):
            expected = normalise(feature.double().numpy().mean(axis=(2, 3)), 1e-6)
            np.testing.assert_allclose(vector.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("norm_cfg", "eps"),
    [
        (dict(type="LN2d", eps=1e-3), 1e-3),
        (dict(type="mmpretrain.LN2d", eps=0.5, requires_grad=True), 0.5),
        (dict(type="LN2d"), 1e-5),  # the default of mmpretrain's build_norm_layer
        (None, 1e-6),
    ],
)
def test_eps_of_the_config_is_that_of_every_norm(norm_cfg, eps):
    torch.manual_seed(0)
    model = build(norm_cfg=norm_cfg, use_grn=True).eval()
    assert {module.eps for module in model.modules() if type(module).__name__ in ("LayerNorm", "LayerNorm2d")} == {eps}
    assert model.stages[0][0].grn.eps == 1e-6  # mmpretrain's norm_cfg does not reach its GRN
    image = torch.rand(1, 3, 32, 32) / 100
    with torch.no_grad():
        stem = nn.functional.conv2d(image, *model.downsample_layers[0][0].parameters(), stride=4)
        expected = normalise(stem.double().numpy(), eps)
        np.testing.assert_allclose(model.downsample_layers[0](image).numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("act_cfg", "approximate"),
    [
        (dict(type="GELU"), "none"),
        (dict(type=nn.GELU), "none"),
        (dict(type="GELU", approximate="tanh"), "tanh"),
        (None, "none"),
    ],
)
def test_gelu_of_the_config_is_that_of_every_block(act_cfg, approximate):
    model = build(act_cfg=act_cfg)
    assert {block.act.approximate for blocks in model.stages for block in blocks} == {approximate}


@pytest.mark.parametrize("linear_pw_conv", [True, False])
def test_how_pointwise_weights_are_kept_does_not_change_the_function(linear_pw_conv):
    image = torch.rand(1, 3, 64, 64)
    torch.manual_seed(0)
    expected = ConvNeXt(SMALL, layer_scale_init_value=1.0)(image)
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type="convnext_dense.ConvNeXt", arch=SMALL, layer_scale_init_value=1.0, linear_pw_conv=linear_pw_conv)
    )
    assert all(map(torch.equal, model(image), expected))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(stem_patch_size=2), r"stem_patch_size=2 must be 4"),
        (
            dict(norm_cfg=dict(type="BN")),
            r"norm_cfg=\{'type': 'BN'\} is not a layer of ConvNeXt; it must be dict",
        ),
        (dict(norm_cfg=dict(type="SyncBN", requires_grad=True)), "norm_cfg=.*SyncBN"),
        (dict(norm_cfg="LN2d"), "norm_cfg='LN2d' is not"),
        (dict(norm_cfg=dict(eps=1e-6)), "norm_cfg=.* is not"),
        (dict(norm_cfg=dict(type="LN2d", eps=0)), "norm_cfg=.* has eps=0, which must be a number above 0"),
        (dict(norm_cfg=dict(type="LN2d", eps="1e-6")), "has eps='1e-6'"),
        (dict(norm_cfg=dict(type="LN2d", requires_grad=False)), "norm_cfg=.* has requires_grad=False; only True"),
        (dict(norm_cfg=dict(type="LN2d", momentum=0.1)), "norm_cfg=.* has momentum; it takes type and eps"),
        (dict(act_cfg=dict(type="ReLU")), r"act_cfg=\{'type': 'ReLU'\} is not .*; it must be dict\(type='GELU'\)"),
        (dict(act_cfg=dict(type="GELU", approximate="erf")), "act_cfg=.* has approximate='erf'"),
        (dict(act_cfg=dict(type="GELU", inplace=True)), "act_cfg=.* has inplace; it takes type and approximate"),
        (dict(linear_pw_conv="no"), "linear_pw_conv='no' must be False or True"),
        (dict(frozen_stages=-2), "frozen_stages=-2"),
        (dict(init_cfg=["Pretrained"]), "init_cfg has 'Pretrained', which is not a dict with a type"),
        (dict(init_cfg=dict(type="Pretrained")), r"init_cfg=.* names no checkpoint; Pretrained takes checkpoint and"),
        (
            dict(init_cfg=dict(type="Pretrained", checkpoint="a", strict=True)),
            "init_cfg=.* has strict; Pretrained",
        ),
        (dict(init_cfg=[dict(type="Pretrained", checkpoint=name) for name in "ab"]), "has 2 entries of type Pretr"),
    ],
)
def test_what_means_something_else_is_refused_by_name(options, text):
    with pytest.raises(ValueError, match=text):
        build(**options)


def test_no_frozen_stages_may_be_written_as_minus_one():
    model = ConvNeXt(SMALL, frozen_stages=-1)
    assert model.train().frozen_stages == 0
    assert all(param.requires_grad for param in model.parameters())


def test_initialisers_reach_every_layer_of_the_kind_that_they_name():
    """The kinds of layers are those of arXiv 2201.03545, figure 4; GRN and layer scale belong to none."""
    kinds = [
        dict(type="Constant", layer="Conv2d", val=2.0, bias=3.0),
        dict(type="Constant", layer="Linear", val=4.0, bias=5.0),
        dict(type="Constant", layer=["LayerNorm"], val=6.0, bias=7.0),
    ]
    found = {}
    for name, param in build(use_grn=True, init_cfg=kinds).named_parameters():
        *_, module, kind = name.split(".")
        of_stem = name.startswith("downsample_layers.0.")
        if module in "01":  # the stem is a convolution and a norm; between stages the norm comes first
            module = "convolution" if (module == "0") == of_stem else "norm"
        found.setdefault((module.rstrip("0123"), kind), set()).update(param.detach().flatten().tolist())
    expected = {
        ("convolution", "weight"): {2.0}, ("convolution", "bias"): {3.0},
        ("dwconv", "weight"): {2.0}, ("dwconv", "bias"): {3.0},
        ("pwconv", "weight"): {4.0}, ("pwconv", "bias"): {5.0},
        ("norm", "weight"): {6.0}, ("norm", "bias"): {7.0},
        ("grn", "gamma"): {0.0}, ("grn", "beta"): {0.0},
    }  # fmt: skip
    assert {key: values for key, values in found.items() if key[1] != "gamma" or key[0] == "grn"} == expected


@pytest.mark.parametrize(
    "init_cfg",
    [
        dict(type="Kaiming", layer=["Conv2d"], mode="fan_out"),
        [dict(type="Xavier", layer="Linear", distribution="uniform"), dict(type="Normal", layer="Conv2d", std=0.01)],
        dict(
            type="TruncNormal",
            layer=["Conv2d", "Linear"],
            std=0.02,
            bias=0.0,
            override=dict(type="Constant", name="norm3", val=2.0),
        ),
    ],
)
def test_mmengines_other_initialisers_are_taken(init_cfg):
    model = build(init_cfg=init_cfg)
    assert all(torch.isfinite(param).all() for param in model.parameters())


@pytest.mark.parametrize("kind", ["Pretrained", "mmengine.Pretrained", PretrainedInit])
@pytest.mark.parametrize("alone", [True, False])
def test_weights_of_a_list_are_loaded_last_and_whole(kind, alone, tmp_path):
    weights = torch.load(OFFICIAL, weights_only=True)["model"]
    pretrained = dict(type=kind, checkpoint=str(OFFICIAL), map_location="cpu")
    others = [dict(type="Constant", layer=["Conv2d", "LayerNorm"], val=9.0)]
    model = build(init_cfg=pretrained if alone else [pretrained, *others])
    state = model.state_dict()
    for name in weights.keys() & state.keys():
        assert torch.equal(state[name], weights[name]), name
    assert torch.equal(state["norm0.weight"], torch.full((8,), 1.0 if alone else 9.0))  # not in the file

    del weights["stages.2.1.dwconv.weight"]
    torch.save(weights, tmp_path / "torn.pth")
    pretrained["checkpoint"] = str(tmp_path / "torn.pth")
    with pytest.raises(ValueError, match=r"Nothing was loaded.*stages\.2\.1\.dwconv\.weight"):
        build(init_cfg=pretrained if alone else [*others, pretrained])


def test_initialiser_of_a_detector_does_not_undo_loaded_weights():
    weights = torch.load(OFFICIAL, weights_only=True)["model"]

    class Detector(BaseModel):
        def __init__(self):
            super().__init__(init_cfg=dict(type="Constant", layer="Conv2d", val=9.0))
            init_cfg = [dict(type="Pretrained", checkpoint=str(OFFICIAL))]
            self.backbone = MODELS.build(dict(type="convnext_dense.ConvNeXt", arch=SMALL, init_cfg=init_cfg))

        def forward(self):
            pass

    model = Detector()
    model.init_weights()
    assert torch.equal(model.backbone.stages[2][2].dwconv.weight, weights["stages.2.2.dwconv.weight"])


def test_classifier_loads_whole_from_a_list_too():
    weights = torch.load(OFFICIAL, weights_only=True)["model"]
    model = ImageClassifier(
        dict(type="convnext_dense.ConvNeXt", arch=SMALL, output_norms="none"),
        num_classes=len(weights["head.bias"]),
        init_cfg=[dict(type="Pretrained", checkpoint=str(OFFICIAL))],
    )
    model.init_weights()
    assert torch.equal(model.head.weight, weights["head.weight"])
    with pytest.raises(ValueError, match="gap_before_final_norm=True, but ImageClassifier pools the features itself"):
        ImageClassifier(dict(type="convnext_dense.ConvNeXt", arch=SMALL, gap_before_final_norm=True))
