"""Every segmentation config against the published recipe and results.

Expected numbers come from `published.json`, where each carries its source: the official repository at a
pinned commit and the paper's Table 4. Models are built on the meta device, so that no weight is drawn or stored.
"""

import ast
import functools
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, PARAM_SCHEDULERS, DefaultScope
from torch import nn

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmseg imports)
from convnext_dense.description.published import read_published

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published()
COMMON = PUBLISHED["ade20k"]["common"]
SEGMENTERS = {model["config"]: model for model in PUBLISHED["ade20k"]["models"].values()}
MAX_BODY_LINES = 25

each_leaf = pytest.mark.parametrize("leaf", sorted(SEGMENTERS), ids=lambda leaf: Path(leaf).stem)


@functools.cache
def load(leaf: str) -> Config:
    return Config.fromfile(ROOT / leaf)


@functools.cache
def build(leaf: str) -> nn.Module:
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmseg"), torch.device("meta"):
        return MODELS.build(load(leaf).model)


@functools.cache
def learning_rates(leaf: str) -> dict[str, float]:
    """The factor of every parameter's learning rate."""
    wrapper_cfg = load(leaf).optim_wrapper.copy()
    wrapper_cfg.type = "OptimWrapper"  # AmpOptimWrapper refuses to start without an accelerator
    with DefaultScope.overwrite_default_scope("mmseg"):
        groups = build_optim_wrapper(build(leaf), wrapper_cfg).optimizer.param_groups
    return {name: group["lr"] / wrapper_cfg.optimizer.lr for group in groups for name in group["param_names"]}


def test_configs_and_published_segmenters_are_the_same_set():
    paths = (ROOT / "configs/segmentation").glob("*.py")
    leaves = {path.relative_to(ROOT).as_posix() for path in paths if "roadmap" not in path.name}
    assert leaves == set(SEGMENTERS)


@each_leaf
def test_leaf_is_short_and_names_its_command_and_source(leaf):
    text = (ROOT / leaf).read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    body_lines = len(text.rstrip().splitlines()) - tree.body[1].lineno + 1
    assert body_lines <= MAX_BODY_LINES, f"{body_lines} lines of body; a leaf is a difference"
    epochs = round(COMMON["iters"] * COMMON["batch_size"] / COMMON["train_images"])
    for wanted in (
        f"tools/dist_train.sh {leaf} {COMMON['gpus']}",
        f"{COMMON['gpus']} GPUs x {COMMON['images_per_gpu']} images = {COMMON['batch_size']}",
        f"{epochs} epochs",
        "Source: arXiv:2201.03545v2, Table 4 (results)",
        "https://github.com/facebookresearch/ConvNeXt/blob/048efcea",
    ):
        assert wanted in docstring, f"the docstring lacks {wanted!r}"


@each_leaf
def test_backbone_is_the_published_one(leaf):
    model, backbone = SEGMENTERS[leaf], load(leaf).model.backbone
    assert backbone.type == "convnext_dense.ConvNeXt"
    assert backbone.arch == model["arch"]
    assert backbone.drop_path_rate == model["drop_path"]
    assert backbone.layer_scale_init_value == COMMON["layer_scale_init"]
    assert backbone.output_norms == "all"
    weights = PUBLISHED["weights"]["urls"][model["weights"]]
    assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": weights}


@each_leaf
@pytest.mark.parametrize("part", ["decode_head", "auxiliary_head"])
def test_heads_are_the_published_ones(leaf, part):
    head, published = load(leaf).model[part], dict(COMMON[part])
    loss = {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": published.pop("loss_weight")}
    assert head.loss_decode == loss
    assert {key: list(head[key]) if isinstance(head[key], tuple) else head[key] for key in published} == published
    assert head.num_classes == COMMON["classes"]
    assert head.norm_cfg.type == COMMON["norm"]
    channels = PUBLISHED["architectures"][SEGMENTERS[leaf]["arch"]]["channels"]
    assert head.in_channels == (channels if part == "decode_head" else channels[2])


@each_leaf
def test_segmenter_has_the_published_number_of_parameters(leaf):
    params = sum(parameter.numel() for parameter in build(leaf).parameters()) / 1e6
    assert params == pytest.approx(SEGMENTERS[leaf]["params_M"], rel=0.01)


@each_leaf
def test_crops_windows_and_scales_are_the_published_ones(leaf):
    cfg, model = load(leaf), SEGMENTERS[leaf]
    crop = (model["crop"], model["crop"])
    test = cfg.model.test_cfg
    assert (test.mode, test.crop_size, test.stride) == ("slide", crop, (model["test_stride"],) * 2)
    assert cfg.model.data_preprocessor.size == crop
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    order = [
        "LoadImageFromFile",
        "LoadAnnotations",
        "RandomResize",
        "RandomCrop",
        "RandomFlip",
        "PhotoMetricDistortion",
    ]
    assert list(steps) == [*order, "PackSegInputs"]
    resize = steps["RandomResize"]
    assert (list(resize.scale), list(resize.ratio_range)) == (model["image_scale"], COMMON["ratio_range"])
    assert resize.keep_ratio is True
    assert steps["RandomCrop"] == {
        "type": "RandomCrop",
        "crop_size": crop,
        "cat_max_ratio": COMMON["cat_max_ratio"],
    }
    assert steps["RandomFlip"].prob == COMMON["flip_probability"]
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        (resize,) = (step for step in loader.dataset.pipeline if step.type == "Resize")
        assert list(resize.scale) == model["image_scale"]
        assert resize.keep_ratio is True


@each_leaf
def test_multi_scale_test_is_the_published_one(leaf):
    cfg, model = load(leaf), SEGMENTERS[leaf]
    assert cfg.tta_model == {
        "type": "convnext_dense.TiledTTAModel",
        "module": {"test_cfg": {"mode": COMMON["tta"]["mode"]}},
    }
    resizes, flips, *_ = cfg.tta_pipeline[1].transforms
    long_side, short_side = model["image_scale"]
    wanted = [(math.floor(long_side * ratio), math.floor(short_side * ratio)) for ratio in COMMON["tta"]["ratios"]]
    assert [step.scale for step in resizes] == wanted
    assert [(step.prob, step.direction) for step in flips] == [(0.0, "horizontal"), (1.0, "horizontal")]


@each_leaf
def test_optimizer_batch_and_precision_are_the_published_ones(leaf):
    cfg, model = load(leaf), SEGMENTERS[leaf]
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer.pop("lr") == model["lr"]
    optimizer["betas"] = list(optimizer["betas"])
    optimizer.pop("fused")  # how torch computes the step, not what
    assert optimizer == COMMON["optimizer"]
    assert cfg.optim_wrapper.get("clip_grad") == COMMON["grad_clip"]
    assert cfg.optim_wrapper.type == ("AmpOptimWrapper" if model["fp16"] else "OptimWrapper")
    assert cfg.optim_wrapper.constructor == "convnext_dense.LayerDecayOptimWrapperConstructor"
    decay = {"decay_rate": model["layer_decay"], "decay_type": COMMON["decay_type"]}
    assert cfg.optim_wrapper.paramwise_cfg == decay
    assert cfg.train_dataloader.batch_size == COMMON["images_per_gpu"]
    assert cfg.train_cfg.max_iters == COMMON["iters"]
    assert cfg.auto_scale_lr.base_batch_size == COMMON["batch_size"]


@each_leaf
def test_learning_rate_groups_are_the_official_stage_wise_ones(leaf):
    published, rates = SEGMENTERS[leaf]["lr_scales"], learning_rates(leaf)
    assert set(rates) == {name for name, _ in build(leaf).named_parameters()}
    for name, rate in rates.items():
        if name.startswith("backbone.downsample_layers."):
            wanted = published["downsample_all"]
        elif name.startswith("backbone.stages."):
            wanted = published["stages"][int(name.split(".")[2])]
        else:
            wanted = published["norms_neck_heads"]
        assert rate == pytest.approx(wanted, abs=6e-5), name


def scheduled_rates(leaf: str, lr: float, iterations: set[int]) -> dict[int, float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(cfg, optimizer=optimizer)) for cfg in load(leaf).param_scheduler]
    rates = {}
    for iteration in range(max(iterations) + 1):
        if iteration in iterations:
            rates[iteration] = optimizer.param_groups[0]["lr"]
        for scheduler in schedulers:
            scheduler.step()
    return rates


@pytest.mark.slow
def test_rate_falls_from_the_first_iteration_on_and_warm_up_multiplies_it():
    """By arithmetic: (1 - i / 160000), times 1e-6 + (1 - 1e-6) i / 1500 during the warm-up."""
    total, warmup = COMMON["iters"], COMMON["warmup"]
    rates = scheduled_rates(sorted(SEGMENTERS)[0], 1.0, {0, 750, 1500, 80_000, 159_999})
    assert (total, warmup["iters"], warmup["ratio"]) == (160_000, 1500, 1e-6)
    assert rates[0] == pytest.approx(1e-6, rel=1e-6)
    assert rates[750] == pytest.approx((1 - 750 / 160_000) * (0.5 + 0.5e-6), rel=1e-6)  # 0.497657
    assert rates[1500] == pytest.approx(1 - 1500 / 160_000, rel=1e-6)  # 0.990625
    assert rates[80_000] == pytest.approx(0.5, rel=1e-6)
    assert rates[159_999] == pytest.approx(1 / 160_000, rel=1e-4)


def test_every_leaf_has_the_same_schedule():
    schedules = [load(leaf).param_scheduler for leaf in SEGMENTERS]
    assert all(schedule == schedules[0] for schedule in schedules)


@each_leaf
def test_data_and_metric_are_ade20k_and_mean_iou(leaf):
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    cfg = load(leaf)
    with DefaultScope.overwrite_default_scope("mmseg"):
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            assert DATASETS.get("mmseg.ADE20KDataset") is not None
            assert loader.dataset.type == "ADE20KDataset"
            assert loader.dataset.data_root == "data/ade/ADEChallengeData2016"
            assert loader.dataset.reduce_zero_label is True
    assert METRICS.get(cfg.val_evaluator.type) is not None
    assert cfg.default_hooks.checkpoint.save_best == "mIoU"
