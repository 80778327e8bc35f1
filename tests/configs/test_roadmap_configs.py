"""Configs that put a step between ResNet and ConvNeXt under a detector or a segmenter: the step is an option."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from convnext_dense.checkpoints import load_weights
from convnext_dense.models import RoadmapNet
from convnext_dense.models.roadmap import REGIMES, STEPS

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "configs/detection/roadmap/mask_rcnn_roadmap_3x.py"
SEGMENTER = ROOT / "configs/segmentation/roadmap/upernet_roadmap_160k.py"


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("step", STEPS)
def test_widths_of_pyramid_and_heads_follow_the_step(step, regime, monkeypatch):
    monkeypatch.setenv("STEP", step)
    monkeypatch.setenv("REGIME", regime)
    cfg = Config.fromfile(ROOT / "configs/_base_/models/roadmap_step.py")
    with torch.device("meta"):
        assert tuple(cfg.feature_channels) == RoadmapNet(step, regime).channels


def test_configs_take_the_step_from_the_environment(monkeypatch):
    monkeypatch.setenv("STEP", "stage_ratio")
    monkeypatch.setenv("REGIME", "resnet200")
    detector, segmenter = Config.fromfile(DETECTOR).model, Config.fromfile(SEGMENTER).model
    for model in (detector, segmenter):
        assert (model.backbone.step, model.backbone.regime) == ("stage_ratio", "resnet200")
        assert model.backbone.init_cfg.checkpoint == "work_dirs/resnet200_stage_ratio/epoch_300.pth"
        assert "arch" not in model.backbone
    # four times 84, arXiv 2201.03545, appendix C
    assert detector.neck.in_channels == segmenter.decode_head.in_channels == [336, 672, 1344, 2688]
    assert segmenter.auxiliary_head.in_channels == 1344


def test_without_a_step_they_stand_on_convnext(monkeypatch):
    monkeypatch.delenv("STEP", raising=False)
    monkeypatch.delenv("REGIME", raising=False)
    model = Config.fromfile(DETECTOR).model
    assert (model.backbone.step, model.neck.in_channels) == ("separate_downsampling", [96, 192, 384, 768])


def test_backbone_of_a_trained_step_loads_whole(tmp_path):
    trained = RoadmapNet("kernel_5", width_factor=1 / 8, output_norms="none")
    classifier = {f"backbone.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": classifier | {"head.weight": torch.rand(10, 96)}, "meta": {}}, tmp_path / "epoch.pth")
    model = RoadmapNet("kernel_5", width_factor=1 / 8)
    report = load_weights(model, tmp_path / "epoch.pth", prefix="backbone.")
    assert set(report.loaded) == set(trained.state_dict())
    assert set(report.new) == {f"norm{stage}.{kind}" for stage in range(4) for kind in ("weight", "bias")}
    with pytest.raises(ValueError, match="Nothing was loaded"):
        load_weights(RoadmapNet("kernel_7", width_factor=1 / 8), tmp_path / "epoch.pth", prefix="backbone.")
