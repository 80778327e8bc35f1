"""Configs of the steps between ResNet and ConvNeXt: a leaf per step for ImageNet, an option under dense heads.

Results and recipe: arXiv 2201.03545v2, tables 5, 10 and 11 (tests/data/published.json)."""

import ast
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from convnext_dense.checkpoints import load_weights
from convnext_dense.models import RoadmapNet
from convnext_dense.models.roadmap import REGIMES, STEPS

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "configs/detection/roadmap/mask_rcnn_roadmap_3x.py"
SEGMENTER = ROOT / "configs/segmentation/roadmap/upernet_roadmap_160k.py"
PUBLISHED = json.loads((ROOT / "tests/data/published.json").read_text(encoding="utf-8"))
# The first step was not trained by this recipe.
TRAINED = [(regime, step) for regime in REGIMES for step in STEPS if step != "original"]


def test_every_trained_step_has_a_leaf():
    found = {path.stem for path in (ROOT / "configs/classification/roadmap").glob("*.py")}
    assert found == {f"{regime}_{step}" for regime, step in TRAINED}


@pytest.mark.parametrize(("regime", "step"), TRAINED)
def test_leaf_trains_its_step_by_the_published_recipe(regime, step):
    leaf = f"configs/classification/roadmap/{regime}_{step}.py"
    cfg, facts = Config.fromfile(ROOT / leaf), PUBLISHED["roadmap"][regime][step]
    recipe = PUBLISHED["classification"]["recipes"][PUBLISHED["roadmap"]["recipe"]["base"]]
    assert (cfg.model.backbone.step, cfg.model.backbone.regime) == (step, regime)
    assert [hook for hook in cfg.custom_hooks if hook.type == "EMAHook"] == []
    goal = {"resnet50": "tiny", "resnet200": "base"}[regime]
    assert cfg.model.backbone.drop_path_rate == recipe["drop_path"][goal]
    assert (cfg.train_cfg.max_epochs, cfg.effective_batch) == (recipe["epochs"], recipe["batch"])
    assert cfg.optim_wrapper.optimizer.lr == recipe["lr"]
    docstring = ast.get_docstring(ast.parse((ROOT / leaf).read_text(encoding="utf-8")))
    for wanted in (
        f"tools/dist_train.sh {leaf} 8",
        f"python tools/train.py {leaf}",
        f"top-1 {facts['top1']:.2f}",
        f"{facts['gflops']:.2f} GFLOPs",
        "Ours: not measured",
    ):
        assert wanted in docstring, f"the docstring lacks {wanted!r}"


def test_classifier_normalises_pooled_features_at_the_last_step_only():
    """arXiv 2201.03545, section 2.6: the norm after pooling comes with the separate downsampling layers."""
    for step, kind in (("layer_norm", nn.Identity), ("separate_downsampling", nn.LayerNorm)):
        cfg = Config.fromfile(ROOT / f"configs/classification/roadmap/resnet50_{step}.py").model
        with torch.device("meta"):
            assert type(MODELS.build({**cfg, "mixup": None}).norm) is kind


def test_isotropic_network_is_a_classifier_too():
    """arXiv 2201.03545, table 2: 22 M parameters for S, with the norm after pooling and 1000 classes."""
    backbone = dict(type="convnext_dense.IsotropicConvNeXt", arch="small", out_indices=(2,), output_norms="none")
    with torch.device("meta"):
        model = MODELS.build(dict(type="convnext_dense.ImageClassifier", backbone=backbone)).eval()
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    assert round(sum(param.numel() for param in model.parameters()) / 1e6) == 22


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
