"""Configs on DINOv3's ConvNeXt against its model card and its linear recipe, which `published.json` holds."""

import ast
import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from torch import nn

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmseg imports)
from convnext_dense.description import count_parameters
from convnext_dense.description.dense import build_on_meta
from convnext_dense.description.published import read_published

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published()
RECIPE = PUBLISHED["dinov3"]["linear_recipe"]
LINEAR = {facts["config"]: facts for facts in PUBLISHED["dinov3"]["linear"].values()}
UPERNET = {facts["config"]: facts for facts in PUBLISHED["dinov3"]["upernet"].values()}
LEAVES = LINEAR | UPERNET

each_leaf = pytest.mark.parametrize("leaf", sorted(LEAVES), ids=lambda leaf: Path(leaf).stem)
each_linear = pytest.mark.parametrize("leaf", sorted(LINEAR), ids=lambda leaf: Path(leaf).stem)


@functools.cache
def load(leaf: str) -> Config:
    return Config.fromfile(ROOT / leaf)


def test_configs_and_published_models_are_the_same_set():
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("dinov3/*.py")} == set(LEAVES)


@each_leaf
def test_leaf_is_short_and_says_what_is_published(leaf):
    text = (ROOT / leaf).read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree) or ""
    assert len(text.rstrip().splitlines()) - tree.body[1].lineno + 1 <= 25
    assert f"tools/dist_train.sh {leaf} 8" in docstring
    assert "8 GPUs x 2 images = 16" in docstring
    assert "licence" in docstring
    wanted = "https://github.com/facebookresearch/dinov3/tree/6876159a" if leaf in LINEAR else "Chosen here: "
    assert wanted in docstring


@each_leaf
def test_backbone_has_the_widths_and_weights_of_dinov3(leaf):
    facts, cfg = LEAVES[leaf], load(leaf).model
    channels = PUBLISHED["architectures"][facts["arch"]]["channels"]
    assert cfg.backbone.arch == facts["arch"]
    assert cfg.backbone.init_cfg == {"type": "Pretrained", "checkpoint": facts["weights"]}
    assert cfg.decode_head.in_channels == (channels[3] if leaf in LINEAR else channels)


@each_linear
def test_only_the_head_learns(leaf):
    model = build_on_meta(load(leaf))
    assert not any(param.requires_grad for param in model.train().backbone.parameters())
    assert load(leaf).model.backbone.get("drop_path_rate", 0.0) == RECIPE["drop_path"]
    # 1 % of the parameters that the model card prints, as whole millions
    millions = count_parameters(model.backbone) / 1e6
    final_norm = LINEAR[leaf]["backbone_params_M"]
    assert millions == pytest.approx(final_norm, abs=max(0.01 * final_norm, 0.5) + 1), "29 M is with a classifier"
    classes, width = 150, model.decode_head.conv_seg.in_channels
    assert count_parameters(model.decode_head) == (width + 1) * classes + 2 * width
    with DefaultScope.overwrite_default_scope("mmseg"):
        groups = build_optim_wrapper(model, load(leaf).optim_wrapper.copy()).optimizer.param_groups
    learning = {id(param) for group in groups for param in group["params"] if param.requires_grad}
    assert learning == {id(param) for param in model.decode_head.parameters()}


@each_linear
def test_recipe_is_the_published_one(leaf):
    cfg = load(leaf)
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert (optimizer["lr"], optimizer["weight_decay"]) == (RECIPE["lr"], RECIPE["weight_decay"])
    assert list(optimizer["betas"]) == RECIPE["betas"]
    assert cfg.optim_wrapper.get("clip_grad") == RECIPE["clip_norm"]
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == (RECIPE["iters"], RECIPE["images_per_gpu"])
    assert cfg.auto_scale_lr.base_batch_size == RECIPE["batch_size"]
    assert cfg.model.decode_head.dropout_ratio == RECIPE["dropout"]
    assert cfg.model.data_preprocessor.size == (RECIPE["crop"],) * 2
    assert cfg.model.test_cfg == dict(
        mode="slide", crop_size=(RECIPE["crop"],) * 2, stride=(RECIPE["test_stride"],) * 2
    )
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(steps["RandomResize"].ratio_range) == RECIPE["ratio_range"]
    assert steps["RandomFlip"].prob == RECIPE["flip_probability"]
    assert cfg.model.get("auxiliary_head") is None


@pytest.mark.slow
def test_learning_rate_is_the_published_one():
    """schedulers.py, WarmupOneCycleLR: a cosine from the first iteration, after a warm-up that falls linearly."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cfg = copy.deepcopy(load(sorted(LINEAR)[0]).param_scheduler)
    schedulers = [PARAM_SCHEDULERS.build(dict(step, optimizer=optimizer)) for step in cfg]
    rates = []
    total, warmup = RECIPE["iters"], RECIPE["warmup"]
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    for step in (0, 100, 750, 1499):
        ramp = 1 - (1 - step / warmup["iters"]) * (1 - warmup["ratio"])
        assert rates[step] == pytest.approx(ramp * (1 - step / total), rel=0.04)
    for step in (1500, 20_000, 39_000):
        assert rates[step] == pytest.approx((1 + math.cos(math.pi * (step + 1) / total)) / 2, rel=5e-3)
