"""Configs of the steps between ResNet and ConvNeXt: one per task, the step is an option.

Results and recipe: arXiv 2201.03545v2, tables 5, 10 and 11 (published.json)."""

import ast
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from convnext_dense.checkpoints import load_weights
from convnext_dense.description.published import read_published
from convnext_dense.errors import UserError
from convnext_dense.models import RoadmapNet
from convnext_dense.plug import take_step

ROOT = Path(__file__).parents[2]
CLASSIFIER = ROOT / "configs/classification/roadmap_1k.py"
DETECTOR = ROOT / "configs/detection/mask_rcnn_roadmap_3x.py"
SEGMENTER = ROOT / "configs/segmentation/upernet_roadmap_160k.py"
PUBLISHED = read_published()
# Where widths change, by regime, and the last step.
WIDTHS = [
    *(("resnet50", step) for step in ("original", "depthwise", "width", "inverted_bottleneck")),
    *(("resnet200", step) for step in ("enhanced_recipe", "stage_ratio", "separate_downsampling")),
]


@pytest.mark.parametrize(("regime", "step"), [("resnet50", "enhanced_recipe"), ("resnet200", "separate_downsampling")])
def test_steps_are_trained_by_the_published_recipe(regime, step):
    cfg = take_step(step, regime)(Config.fromfile(CLASSIFIER))
    recipe = PUBLISHED["classification"]["recipes"][PUBLISHED["roadmap"]["recipe"]["base"]]
    assert (cfg.model.backbone.step, cfg.model.backbone.regime) == (step, regime)
    assert [hook for hook in cfg.custom_hooks if hook.type == "EMAHook"] == []
    goal = {"resnet50": "tiny", "resnet200": "base"}[regime]
    assert cfg.model.backbone.drop_path_rate == recipe["drop_path"][goal]
    assert (cfg.train_cfg.max_epochs, cfg.effective_batch) == (recipe["epochs"], recipe["batch"])
    assert cfg.optim_wrapper.optimizer.lr == recipe["lr"]
    assert cfg.work_dir == f"work_dirs/{regime}_{step}"


@pytest.mark.parametrize("path", [CLASSIFIER, DETECTOR, SEGMENTER], ids=lambda path: path.stem)
def test_docstring_names_command_and_source(path):
    docstring, leaf = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.relative_to(ROOT).as_posix()
    for wanted in (
        f"tools/dist_train.sh {leaf} 8 --step kernel_7 --regime resnet50",
        f"python tools/train.py {leaf} --step kernel_7",
        "arXiv:2201.03545v2",
    ):
        assert wanted in docstring, f"the docstring lacks {wanted!r}"


def test_classifier_normalises_pooled_features_at_the_last_step_only():
    """arXiv 2201.03545, section 2.6: the norm after pooling comes with the separate downsampling layers."""
    for step, kind in (("layer_norm", nn.Identity), ("separate_downsampling", nn.LayerNorm)):
        cfg = take_step(step)(Config.fromfile(CLASSIFIER)).model
        with torch.device("meta"):
            assert type(MODELS.build({**cfg, "mixup": None}).norm) is kind


def test_isotropic_network_is_a_classifier_too():
    """arXiv 2201.03545, table 2: 22 M parameters for S, with the norm after pooling and 1000 classes."""
    backbone = dict(type="convnext_dense.IsotropicConvNeXt", arch="small", out_indices=(2,), output_norms="none")
    with torch.device("meta"):
        model = MODELS.build(dict(type="convnext_dense.ImageClassifier", backbone=backbone)).eval()
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    assert round(sum(param.numel() for param in model.parameters()) / 1e6) == 22


@pytest.mark.parametrize(("regime", "step"), WIDTHS)
def test_widths_of_pyramid_and_heads_follow_the_step(step, regime):
    """Four times the width of arXiv 2201.03545, tables 10 and 11, until the bottleneck is inverted."""
    width = {"resnet50": 64, "resnet200": 64 if step in ("original", "enhanced_recipe") else 84}[regime]
    narrow = ("original", "enhanced_recipe", "stage_ratio", "patchify_stem", "depthwise")
    width = width if step in narrow else {"resnet50": 96, "resnet200": 128}[regime]
    channels = [(4 if step in (*narrow, "width") else 1) * width * 2**stage for stage in range(4)]
    detector, segmenter = (take_step(step, regime)(Config.fromfile(path)).model for path in (DETECTOR, SEGMENTER))
    assert list(detector.neck.in_channels) == list(segmenter.decode_head.in_channels) == channels
    assert segmenter.auxiliary_head.in_channels == channels[2]
    for model in (detector, segmenter):
        assert (model.backbone.step, model.backbone.regime) == (step, regime)
        assert model.backbone.init_cfg.checkpoint == f"work_dirs/{regime}_{step}/epoch_300.pth"
        assert model.backbone.drop_path_rate == 0.4


def test_without_a_step_they_stand_on_convnext():
    model = Config.fromfile(DETECTOR).model
    assert (model.backbone.step, model.neck.in_channels) == ("separate_downsampling", [96, 192, 384, 768])


def test_step_of_another_config_is_refused():
    with pytest.raises(UserError, match=r"--step and --regime are for RoadmapNet; the config's backbone is convnext_d"):
        take_step("kernel_7")(Config.fromfile(ROOT / "configs/detection/mask_rcnn_convnext_t_3x.py"))
    with pytest.raises(UserError, match=r"step='kernel_8' is not on the road"):
        take_step("kernel_8")(Config.fromfile(CLASSIFIER))


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
