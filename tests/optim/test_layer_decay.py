"""Learning-rate multipliers. Expected numbers are those of the official code's rule, tabulated in
published.json (coco.models.*.lr_scales_by_id, coco.layer_ids) and in arXiv 2201.03545's official configs."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from convnext_dense.description.published import read_published
from convnext_dense.models import ConvNeXt
from convnext_dense.optim import LayerDecayOptimWrapperConstructor

PUBLISHED = read_published()

# The official layer-wise rule, by parameter prefix -> layer id, for both depths of stage 2 (last id 6 or 12).
LAYER_IDS = {
    "downsample_layers.0": 0,
    "stages.0": 1,
    "downsample_layers.1": 2,
    "stages.1": 2,
    "downsample_layers.2": 3,
    "downsample_layers.3": "last",
    "stages.3": "last",
    "norm": "head",
}


class Detector(nn.Module):
    """Stands for any model that has a backbone under a name of its choice."""

    def __init__(self, backbone, name="backbone"):
        super().__init__()
        self.add_module(name, backbone)
        self.head = nn.Linear(8, 4)


def groups_of(model, decay_rate, decay_type, lr=1.0, weight_decay=0.05):
    constructor = LayerDecayOptimWrapperConstructor(
        dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=lr, weight_decay=weight_decay)),
        dict(decay_rate=decay_rate, decay_type=decay_type),
    )
    wrapper = constructor(model)
    assert isinstance(wrapper, OptimWrapper)
    return wrapper.optimizer.param_groups


def multipliers(groups):
    return {name: group["lr"] for group in groups for name in group["param_names"]}


def official_layer_id(name, last):
    if name.startswith("stages.2."):
        return 3 + int(name.split(".")[2]) // 3
    for prefix, layer_id in LAYER_IDS.items():
        if name.startswith(prefix):
            return {"last": last, "head": last + 1}.get(layer_id, layer_id)
    raise AssertionError(name)


def meta(arch):
    with torch.device("meta"):
        return Detector(ConvNeXt(arch))


@pytest.mark.parametrize(
    ("arch", "model"),
    [
        ("tiny", "mask_rcnn_tiny_1k"),
        ("tiny", "cascade_tiny_1k"),
        ("small", "cascade_small_1k"),
        ("base", "cascade_base_1k"),
        ("large", "cascade_large_22k"),
        ("xlarge", "cascade_xlarge_22k"),
    ],
)
def test_layer_wise_multipliers_are_the_published_ones(arch, model):
    published = PUBLISHED["coco"]["models"][model]
    scales = published["lr_scales_by_id"]  # by layer id
    last = published["num_layers"]
    found = multipliers(groups_of(meta(arch), published["layer_decay"], "layer_wise"))
    for name, value in found.items():
        inner = name.removeprefix("backbone.")
        layer_id = last + 1 if name.startswith("head") else official_layer_id(inner, last)
        assert value == pytest.approx(scales[layer_id], abs=1e-6), name


@pytest.mark.parametrize(
    ("arch", "stages", "downsampling"),
    [
        # 0.9 ** (6 + 2 - id - 1), then 0.9 ** (12 + 2 - id - 1); the first id is the downsampling layers'
        ("tiny", (0.531441, 0.59049, 0.6561, 0.729), 0.4782969),
        ("small", (0.28242954, 0.31381060, 0.34867844, 0.38742049), 0.25418658),
        ("base", (0.28242954, 0.31381060, 0.34867844, 0.38742049), 0.25418658),
        ("large", (0.28242954, 0.31381060, 0.34867844, 0.38742049), 0.25418658),
        ("xlarge", (0.28242954, 0.31381060, 0.34867844, 0.38742049), 0.25418658),
    ],
)
def test_stage_wise_multipliers_are_the_published_ones(arch, stages, downsampling):
    for name, value in multipliers(groups_of(meta(arch), 0.9, "stage_wise")).items():
        parts = name.removeprefix("backbone.").split(".")
        expected = {"stages": stages[int(parts[1])] if parts[0] == "stages" else 0, "downsample_layers": downsampling}
        assert value == pytest.approx(expected.get(parts[0], 1.0), abs=1e-7), name


def test_atto_counts_its_own_layers():
    """Six blocks in stage 2 make two groups of three: ids 0, 1, 2, 3, 4, then stage 3 is 5 and the head 6."""
    found = multipliers(groups_of(meta("atto"), 0.5, "layer_wise"))
    assert found["backbone.downsample_layers.0.0.weight"] == 0.5**6
    assert found["backbone.stages.2.2.gamma"] == 0.5**3
    assert found["backbone.stages.2.3.gamma"] == 0.5**2
    assert found["backbone.stages.3.1.gamma"] == 0.5
    assert found["backbone.norm3.weight"] == found["head.weight"] == 1.0


def test_last_stage2_block_learns_slower_than_stage3():
    found = multipliers(groups_of(meta("small"), 0.7, "layer_wise"))
    assert found["backbone.stages.2.26.pwconv1.weight"] < found["backbone.stages.3.0.pwconv1.weight"]


@pytest.mark.parametrize("decay_type", ["layer_wise", "stage_wise"])
@pytest.mark.parametrize("arch", ["atto", "tiny", "small"])
def test_groups_are_disjoint_and_complete(arch, decay_type):
    model = meta(arch)
    groups = groups_of(model, 0.8, decay_type)
    ids = [id(param) for group in groups for param in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(param) for param in model.parameters()}
    names = dict(model.named_parameters())
    for group in groups:
        assert [id(names[name]) for name in group["param_names"]] == [id(param) for param in group["params"]]


def test_biases_and_vectors_get_no_weight_decay():
    with torch.device("meta"):
        model = Detector(ConvNeXt("atto", use_grn=True))
    for group in groups_of(model, 0.8, "layer_wise"):
        for name, param in zip(group["param_names"], group["params"], strict=True):
            plain = param.dim() == 1 or name.endswith("bias") or ".grn." in name
            assert group["weight_decay"] == (0.0 if plain else 0.05), name


def test_frozen_parameters_are_in_no_group():
    with torch.device("meta"):
        model = Detector(ConvNeXt("atto", frozen_stages=1))
    names = [name for group in groups_of(model, 0.8, "layer_wise") for name in group["param_names"]]
    assert not any(name.startswith(("backbone.stages.0", "backbone.downsample_layers.0")) for name in names)


def test_backbone_under_another_name_and_wrapper_keeps_its_ids():
    class Renamed(ConvNeXt):
        pass

    with torch.device("meta"):
        model = nn.ModuleDict({"teacher": Detector(Renamed("atto"), "trunk"), "extra": nn.Linear(3, 3)})
    found = multipliers(groups_of(model, 0.5, "layer_wise"))
    assert found["teacher.trunk.stages.0.0.gamma"] == 0.5**5
    assert found["extra.weight"] == found["teacher.head.weight"] == 1.0


def test_two_backbones_of_different_depth_are_told_apart():
    with torch.device("meta"):
        model = nn.ModuleDict({"a": ConvNeXt("atto"), "b": ConvNeXt("small")})
    found = multipliers(groups_of(model, 0.5, "layer_wise"))
    assert found["a.downsample_layers.0.0.weight"] == 0.5**6
    assert found["b.downsample_layers.0.0.weight"] == 0.5**13
    assert found["a.stages.3.0.gamma"] == found["b.stages.3.0.gamma"] == 0.5


def test_model_without_layer_ids_is_an_error():
    with pytest.raises(ValueError, match=r"needs a backbone with get_layer_depth.*Linear has none"):
        groups_of(nn.Linear(3, 3), 0.8, "layer_wise")


@pytest.mark.parametrize(
    ("paramwise_cfg", "text"),
    [
        (dict(decay_rate=0.8, num_layers=6), "num_layers.*the backbone knows its number of layers"),
        (dict(decay_rate=1.5), r"decay_rate in \(0, 1\], got 1.5"),
        (dict(decay_type="layer_wise"), r"decay_rate in \(0, 1\], got None"),
        (
            dict(decay_rate=0.8, decay_type="block"),
            "decay_type='block' must be one of layer_wise",
        ),
    ],
)
def test_wrong_settings_are_named(paramwise_cfg, text):
    with pytest.raises(ValueError, match=text):
        LayerDecayOptimWrapperConstructor(
            dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1.0)), paramwise_cfg
        )


def test_table_shows_every_group(monkeypatch):
    lines = []
    monkeypatch.setattr("convnext_dense.optim.layer_decay.print_log", lambda text, **_: lines.append(text))
    groups = groups_of(meta("tiny"), 0.7, "layer_wise", lr=2e-4)
    rows = lines[0].splitlines()[2:]
    assert len(rows) == len(groups)
    assert rows[0].split()[:4] == ["0", "0.082354", "1.65e-05", "0"]  # 2e-4 * 0.7 ** 7


class Doubled(nn.Module):
    """A backbone around ConvNeXt with its own ids: 1 for what it adds, 0 for all of ConvNeXt."""

    def __init__(self, before=()):
        super().__init__()
        for name in before:
            self.add_module(name, nn.Linear(2, 2))
        self.inner = ConvNeXt("atto")
        self.extra = nn.Linear(2, 2)

    def get_layer_depth(self, name, prefix=""):
        inside = name.startswith(f"{prefix}inner.")
        return (0 if inside else 1 if name.startswith(prefix) else 4), 5


@pytest.mark.parametrize("name", ["backbone", "a.b", ""])
def test_backbone_around_a_backbone_says_the_ids_of_all_that_is_in_it(name):
    """0.5 ** (5 - 0 - 1) for the inner backbone, 0.5 ** 3 for the rest of the outer one, 1 outside."""
    with torch.device("meta"):
        model = Doubled()
        for part in reversed(name.split(".") if name else []):
            model = Detector(model, part)
    found = multipliers(groups_of(model, 0.5, "layer_wise"))
    prefix = f"{name}." if name else ""
    for param, value in found.items():
        expected = (
            0.5**4 if param.startswith(f"{prefix}inner.") else 0.5**3 if param.startswith(f"{prefix}extra") else 1.0
        )
        assert value == expected, f"{param}: the outermost backbone is asked, not one in it"


def test_backbones_beside_one_another_keep_their_own_ids_whatever_their_names():
    """One name may be a prefix of the other."""
    with torch.device("meta"):
        model = nn.ModuleDict({"net": ConvNeXt("small"), "net2": ConvNeXt("atto"), "head": nn.Linear(2, 2)})
    found = multipliers(groups_of(model, 0.5, "layer_wise"))
    assert found["net.downsample_layers.0.0.weight"] == 0.5**13
    assert found["net2.downsample_layers.0.0.weight"] == 0.5**6
    assert found["head.weight"] == found["net2.norm3.weight"] == 1.0


def test_rate_of_a_group_is_its_multiplier_times_the_rate_of_the_config():
    groups = groups_of(meta("atto"), 0.5, "layer_wise", lr=0.01, weight_decay=0.3)
    assert {group["lr_scale"] for group in groups} == {0.5**depth for depth in range(7)}
    for group in groups:
        assert group["lr"] == 0.01 * group["lr_scale"]
        assert group["weight_decay"] in (0.0, 0.3)
    # From the deepest layer to the head; groups without decay come before those with decay.
    order = [(group["lr_scale"], group["weight_decay"]) for group in groups]
    assert order == sorted(order)


def test_layers_of_unlike_backbones_that_learn_alike_share_a_group():
    """atto's stem is six steps from its head, and so is the fourth but last layer of small."""
    with torch.device("meta"):
        model = nn.ModuleDict({"a": ConvNeXt("atto"), "b": ConvNeXt("small")})
    groups = groups_of(model, 0.5, "layer_wise")
    keys = [(group["lr_scale"], group["weight_decay"]) for group in groups]
    assert len(keys) == len(set(keys))


def test_optimizer_without_weight_decay_gets_groups_without():
    constructor = LayerDecayOptimWrapperConstructor(
        dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=1.0)), dict(decay_rate=0.5)
    )
    groups = constructor(meta("atto")).optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0}
    assert len(groups) == 7  # one per layer id


def test_layer_wise_is_the_default():
    constructor = LayerDecayOptimWrapperConstructor(
        dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=1.0)), dict(decay_rate=0.5)
    )
    found = multipliers(constructor(meta("atto")).optimizer.param_groups)
    assert found == multipliers(groups_of(meta("atto"), 0.5, "layer_wise"))
    assert found != multipliers(groups_of(meta("atto"), 0.5, "stage_wise"))


@pytest.mark.parametrize("decay_rate", [0.0, -0.5, 1.0001])
def test_rate_outside_of_its_range_is_named(decay_rate):
    with pytest.raises(ValueError, match=rf"decay_rate in \(0, 1\], got {decay_rate}"):
        groups_of(meta("atto"), decay_rate, "layer_wise")


def test_rate_of_one_leaves_all_rates_alike():
    assert set(multipliers(groups_of(meta("atto"), 1.0, "layer_wise")).values()) == {1.0}


def test_biases_of_any_shape_and_slices_of_sharded_weights_follow_the_whole():
    """A bias need not be a vector; a shard of a matrix is one, and knows the dimensions of the whole."""
    model = meta("atto")
    model.grid = nn.Module()
    model.grid.bias = nn.Parameter(torch.zeros(1, 4, 1, 1))
    model.grid.scalar = nn.Parameter(torch.tensor(1.0))
    model.grid.matrix = nn.Parameter(torch.zeros(8))
    model.grid.matrix.num_dims = 2
    decays = {
        name: group["weight_decay"] for group in groups_of(model, 0.5, "layer_wise") for name in group["param_names"]
    }
    assert (decays["grid.bias"], decays["grid.scalar"], decays["grid.matrix"]) == (0.0, 0.0, 0.05)


def test_stage_wise_decay_asks_for_the_method_of_stages():
    class Layers(nn.Linear):
        def get_layer_depth(self, name, prefix=""):
            return 0, 2

    with pytest.raises(ValueError, match=r"needs a backbone with get_stage_depth\(name, prefix\), but Layers has none"):
        groups_of(Layers(2, 2), 0.5, "stage_wise")


def test_summary_is_the_table_that_is_logged():
    constructor = LayerDecayOptimWrapperConstructor(
        dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-4, weight_decay=0.05)), dict(decay_rate=0.7)
    )
    head, columns, first, *_, last = constructor.summary(meta("atto")).splitlines()
    assert head == "Learning rates: layer_wise decay 0.7 from lr 0.0002"
    assert columns.split() == ["layer", "multiplier", "lr", "weight", "decay", "tensors", "params", "names"]
    # 0.7 ** 6 = 0.117649; the stem without decay: bias, weight and bias of the norm, of 40 channels each
    stem = "backbone.downsample_layers.0.0.bias ... backbone.downsample_layers.0.1.bias"
    assert first.split(maxsplit=6) == ["0", "0.117649", "2.35e-05", "0", "3", "120", stem]
    # the head's matrix of 8 x 4
    assert last.split(maxsplit=6) == ["6", "1.000000", "0.0002", "0.05", "1", "32", "head.weight ... head.weight"]
