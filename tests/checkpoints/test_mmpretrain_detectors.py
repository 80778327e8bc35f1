"""Detectors and segmenters that were trained on mmpretrain's or mmcls' ConvNeXt load whole into the config on ours.

Names and shapes are those of the code of mmpretrain, mmdet and mmseg, see tests/fixtures/mmpretrain/README.md."""

import gzip
import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

from convnext_dense.checkpoints import Checkpoint
from convnext_dense.errors import UserError

FOLDER = Path(__file__).parents[1] / "fixtures" / "mmpretrain"
sys.path.append(str(FOLDER))
from write_names import CONFIGS, read_model  # noqa: E402

NAMES = json.loads(gzip.decompress((FOLDER / "names.json.gz").read_bytes()))


@pytest.fixture(scope="module", params=CONFIGS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def weights(kind):
    return {name: torch.zeros(()).expand(shape) for name, shape in NAMES[kind].items()}


@pytest.fixture(scope="module")
def wanted(kind):
    model = read_model(kind)
    model.backbone.type = "convnext_dense.ConvNeXt"
    with torch.device("meta"):
        return MODELS.build(model).state_dict()


def fit(content, wanted, **kwargs):
    return Checkpoint("their.pth", content).fit(wanted, **kwargs)[0]


def assert_whole(report, wanted):
    assert report.layout == "mmpretrain"
    assert (report.missing, report.new, report.mismatched, report.unexpected) == ((), (), (), ())
    untracked = {name for name in wanted if name not in report.loaded}
    assert all(name.endswith("num_batches_tracked") for name in untracked)
    report.raise_if_incomplete()


def test_every_tensor_has_its_place(weights, wanted):
    report = fit({"state_dict": weights, "meta": {}}, wanted)
    assert_whole(report, wanted)
    assert len(report.loaded) == len(weights) == len(wanted)


def test_pointwise_convolutions_are_read_as_linear_layers(weights, wanted):
    """mmcls and mmpretrain with linear_pw_conv=False"""
    pointwise = {
        name: tensor[:, :, None, None]
        for name, tensor in weights.items()
        if name.startswith("backbone.") and ".pointwise_conv" in name and name.endswith("weight")
    }
    rolled = weights | pointwise
    report = fit(rolled, wanted)
    assert_whole(report, wanted)
    assert len(report.reshaped) == len(pointwise)


def test_old_files_do_not_count_batches(weights, wanted):
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    assert_whole(fit(kept, wanted), wanted)


def test_average_is_taken_and_raw_weights_are_selected(weights, wanted):
    """mmengine's EMAHook swaps both before it writes a file."""
    raw = {f"module.{name}": tensor for name, tensor in weights.items()} | {"steps": torch.tensor(7)}
    content = {"state_dict": weights, "ema_state_dict": raw, "meta": {}}
    assert_whole(fit(content, wanted), wanted)
    report = fit(content, wanted, prefix="ema_state_dict.")
    assert report.unexpected == ("steps",)
    report.raise_if_incomplete()


def test_mean_and_deviation_in_a_file_are_said_to_be_unused(weights, wanted):
    buffers = {f"data_preprocessor.{part}": torch.zeros(3, 1, 1) for part in ("mean", "std")}
    report = fit(weights | buffers, wanted)
    assert report.unexpected == tuple(buffers)
    report.raise_if_incomplete()


@pytest.mark.parametrize("part", ["backbone.norm2.weight", "backbone.stages.0.0.depthwise_conv.bias"])
def test_file_without_one_tensor_is_incomplete(weights, wanted, part):
    report = fit({name: tensor for name, tensor in weights.items() if name != part}, wanted)
    assert report.missing == (part.replace("depthwise_conv", "dwconv"),)


def test_part_that_is_absent_as_a_whole_is_named(weights, wanted):
    parts = ("roi_head.mask_head", "auxiliary_head", "bbox_head")
    part = next(part for part in parts if any(name.startswith(f"{part}.") for name in wanted))
    names = [name for name in weights if name.startswith(f"{part}.")]
    without = {name: tensor for name, tensor in weights.items() if name not in names}
    with pytest.raises(UserError, match=rf"The file has no {part} at all: it was trained with another config"):
        fit(without, wanted).raise_if_incomplete()
    without[names[0]] = weights[names[0]]
    with pytest.raises(UserError, match="The file is incomplete"):
        fit(without, wanted).raise_if_incomplete()
