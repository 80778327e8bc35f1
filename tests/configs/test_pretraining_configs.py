"""Every config of pre-training without labels on ImageNet against the published recipe.

Expected numbers come from `published.json`: arXiv 2301.00808, Table 8, and the official repository at a pinned commit.
"""

import ast
import functools
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from learning_rates import rates_of
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from convnext_dense.checkpoints import read_zoo
from convnext_dense.data import build_transform
from convnext_dense.description.published import read_published

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published()
RECIPE = PUBLISHED["pretraining"]["recipe"]
LEAVES = PUBLISHED["pretraining"]["models"]
PEAK = RECIPE["base_lr"] * RECIPE["batch"] / RECIPE["base_batch"]

each_leaf = pytest.mark.parametrize("leaf", sorted(LEAVES), ids=lambda leaf: Path(leaf).stem)


@functools.cache
def load(leaf):
    return Config.fromfile(ROOT / leaf)


@functools.cache
def build(leaf):
    with torch.device("meta"):
        return MODELS.build(load(leaf).model)


def test_configs_and_published_pre_trainings_are_the_same_set():
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/pretraining/*_1600e.py")} == set(LEAVES)


@each_leaf
def test_leaf_names_its_command_batch_and_source(leaf):
    text = (ROOT / leaf).read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert f"tools/dist_train.sh {leaf} 8" in docstring
    assert f"Table 15 (top-1 {LEAVES[leaf]['top1_fine_tuned']} after" in docstring
    nodes, gpus, images, total = map(
        int, re.search(r"Batch: (\d+) nodes x (\d+) GPUs x (\d+) images = (\d+)", docstring).groups()
    )
    assert f"{nodes}x{gpus}x{images}" == RECIPE["nodes_gpus_images"]
    assert nodes * gpus * images == total == RECIPE["batch"] == load(leaf).effective_batch
    assert load(leaf).train_dataloader.batch_size == images


@each_leaf
def test_encoder_and_decoder_are_the_published_ones(leaf):
    model, arch = build(leaf), PUBLISHED["architectures_v2"][LEAVES[leaf]["arch"]]
    assert (model.backbone.depths, model.backbone.channels) == (tuple(arch["depths"]), tuple(arch["channels"]))
    encoder = sum(param.numel() for param in model.backbone.parameters())
    # less the classifier's norm and its head of 1000 classes; published in millions with one digit
    published = arch["params_M"] - (2 * arch["channels"][-1] + 1000 * (arch["channels"][-1] + 1)) / 1e6
    assert encoder / 1e6 == pytest.approx(published, rel=0.01, abs=0.05)
    assert all(
        block.gamma is None and hasattr(block.grn, "gamma") for stage in model.backbone.stages for block in stage
    )
    assert model.mask_ratio == RECIPE["mask_ratio"]
    assert model.normalises_targets
    assert len(model.decoder) == RECIPE["decoder"]["depth"]
    assert model.proj.out_channels == RECIPE["decoder"]["channels"]
    assert model.pred.out_channels == 3 * RECIPE["patch_size"] ** 2


@each_leaf
def test_optimizer_and_length_are_the_published_ones(leaf):
    cfg, model = load(leaf), build(leaf)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    assert wrapper.clip_grad_kwargs is RECIPE["grad_clip"]
    names = {id(param): name for name, param in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        assert list(group["betas"]) == RECIPE["betas"]
        assert group["lr"] == pytest.approx(PEAK)
        for param in group["params"]:
            name = names.pop(id(param))
            decayed = 0.0 if param.dim() <= 1 or name.endswith(".bias") else RECIPE["weight_decay"]
            assert group["weight_decay"] == decayed, name
    assert not names
    assert cfg.train_cfg.max_epochs == RECIPE["epochs"]
    assert not any(hook.type == "EMAHook" for hook in cfg.custom_hooks)


def rates_of_a_published_cosine(cfg, recipe, peak, per_epoch):
    """The rates of a config, compared with the official ``adjust_learning_rate``, called in every iteration.

    Linear from 0, then half a cosine to the lowest rate.
    """
    wanted, warmup = [], recipe["warmup_epochs"]
    for step in range(recipe["epochs"] * per_epoch):
        epoch = step / per_epoch
        rest = (epoch - warmup) / (recipe["epochs"] - warmup)
        falling = recipe["min_lr"] + (peak - recipe["min_lr"]) * 0.5 * (1 + math.cos(math.pi * rest))
        wanted.append(peak * epoch / warmup if epoch < warmup else falling)
    rates = rates_of(cfg.param_scheduler, peak, epochs=recipe["epochs"], per_epoch=per_epoch)
    largest_step = max(abs(after - before) for before, after in pairwise(wanted))
    assert rates == pytest.approx(wanted, abs=1.01 * largest_step)
    return rates


def test_schedule_is_the_published_cosine_per_iteration():
    rates = rates_of_a_published_cosine(load(min(LEAVES)), RECIPE, PEAK, per_epoch=3)
    assert max(rates) == pytest.approx(PEAK, rel=1e-6)


def test_images_are_cropped_and_flipped_and_nothing_else():
    transform = load(min(LEAVES)).train_dataloader.dataset.transform
    assert (transform.input_size, list(transform.scale)) == (RECIPE["size"], RECIPE["crop_scale"])
    assert (transform.hflip, transform.interpolation) == (RECIPE["hflip"], RECIPE["interpolation"])
    steps = [type(step).__name__ for step in build_transform(transform).transforms]
    assert steps == ["RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "MaybeToTensor", "Normalize"]


FINE_TUNED = PUBLISHED["pretraining"]["fine_tuning"]["models"]
each_fine_tuned = pytest.mark.parametrize("leaf", sorted(FINE_TUNED), ids=lambda leaf: Path(leaf).stem)


def test_fine_tuning_configs_are_those_whose_recipe_is_published():
    paths = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/classification/v2/*.py")}
    assert paths == set(FINE_TUNED)
    for path in paths:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert len(text.rstrip().splitlines()) - ast.parse(text).body[1].lineno + 1 <= 25, "a leaf is a difference"


def official_layer_id(name, depths, kind):
    """get_num_layer_for_convnext_single and get_num_layer_for_convnext of optim_factory.py, and their number."""
    match = re.match(r"backbone\.(downsample_layers|stages)\.(\d)\.(\d+)", name)
    total = sum(depths) if kind == "single" else 12
    if match is None:
        return total + 1, total
    stage, block = int(match[2]), int(match[3])
    is_block = match[1] == "stages"
    if kind == "single":
        return sum(depths[:stage]) + (block if is_block else 0) + 1, total
    if is_block:
        return (stage + 1 if stage < 2 else 3 + block // 3 if stage == 2 else 12), total
    return (0, 2, 3, 12)[stage], total


@each_fine_tuned
def test_fine_tuning_recipe_is_the_published_one(leaf):
    cfg, recipe = load(leaf), FINE_TUNED[leaf]
    peak = recipe["base_lr"] * recipe["batch"] / recipe["base_batch"]
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    arch = PUBLISHED["architectures_v2"][recipe["arch"]]
    assert sum(param.numel() for param in model.parameters()) / 1e6 == pytest.approx(
        arch["params_M"], rel=0.01, abs=0.05
    )
    assert fetched_from(cfg.model.backbone.init_cfg.checkpoint) == recipe["weights"]
    assert cfg.effective_batch == recipe["batch"] == 4 * 8 * cfg.train_dataloader.batch_size
    assert cfg.train_cfg.max_epochs == recipe["epochs"]
    assert cfg.model.backbone.drop_path_rate == recipe["drop_path"]
    assert cfg.model.label_smoothing == recipe["label_smoothing"]
    assert cfg.model.head_init_scale == recipe["head_init_scale"]
    mixup = cfg.model.mixup or dict(mixup_alpha=0, cutmix_alpha=0)
    assert (mixup["mixup_alpha"], mixup["cutmix_alpha"]) == (recipe["mixup"], recipe["cutmix"])
    transform = cfg.train_dataloader.dataset.transform
    assert (transform.auto_augment, transform.re_prob) == (recipe["rand_augment"], recipe["random_erasing"])
    assert transform.color_jitter is None
    (average,) = (hook for hook in cfg.custom_hooks if hook.type == "EMAHook")
    assert 1 - average.momentum == recipe["ema_decay"]

    wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper, type="OptimWrapper"))
    names = {id(param): name for name, param in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        for param in group["params"]:
            name = names.pop(id(param))
            layer_id, total = official_layer_id(name, arch["depths"], recipe["layer_decay_type"])
            assert group["lr"] == pytest.approx(peak * recipe["layer_decay"] ** (total + 1 - layer_id)), name
            decayed = 0.0 if param.dim() <= 1 or name.endswith(".bias") else recipe["weight_decay"]
            assert group["weight_decay"] == decayed, name
    assert not names


def fetched_from(source):
    return read_zoo()[source.removeprefix("zoo:")].address


@each_fine_tuned
def test_fine_tuning_schedule_is_the_published_cosine(leaf):
    recipe = FINE_TUNED[leaf]
    peak = recipe["base_lr"] * recipe["batch"] / recipe["base_batch"]
    rates_of_a_published_cosine(load(leaf), recipe, peak, per_epoch=5)
