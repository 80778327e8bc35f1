"""Every ImageNet config against the published recipe and results.

Expected numbers come from `published.json`, where each carries its source: the official repository at a
pinned commit and the paper's tables 1, 5 and 6.
"""

import ast
import functools
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from learning_rates import rates_of
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS
from PIL import Image
from torchvision.transforms import functional

from convnext_dense.config.batch import accumulate_to_effective_batch
from convnext_dense.data import build_transform
from convnext_dense.description.published import read_published

ROOT = Path(__file__).parents[2]
PUBLISHED = read_published()
LEAVES = PUBLISHED["classification"]["models"]
RECIPES = PUBLISHED["classification"]["recipes"]
MAX_BODY_LINES = 25

each_leaf = pytest.mark.parametrize("leaf", sorted(LEAVES), ids=lambda leaf: Path(leaf).stem)


@functools.cache
def load(leaf):
    return Config.fromfile(ROOT / leaf)


@functools.cache
def build(leaf):
    with torch.device("meta"):
        return MODELS.build({**load(leaf).model, "init_cfg": None})


def recipe_of(leaf):
    return RECIPES[LEAVES[leaf]["recipe"]]


def per_arch(value, leaf):
    """A published value, which is one for all sizes or one per size."""
    return value[LEAVES[leaf]["arch"]] if isinstance(value, dict) else value


def ema_decay(leaf):
    """The published decay of the moving average; None where there is none."""
    ema = recipe_of(leaf)["ema"]
    if not ema:
        return None
    return ema.get(LEAVES[leaf]["arch"], ema.get("default")) if "default" in ema else ema["decay"]


def test_configs_and_published_classifiers_are_the_same_set():
    paths = (ROOT / "configs/classification").glob("*.py")
    leaves = {path.relative_to(ROOT).as_posix() for path in paths if "roadmap" not in path.name}
    assert leaves == set(LEAVES)


@each_leaf
def test_leaf_is_short_and_names_its_command_and_source(leaf):
    text = (ROOT / leaf).read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.rstrip().splitlines()) - tree.body[1].lineno + 1 <= MAX_BODY_LINES, "a leaf is a difference"
    docstring = ast.get_docstring(tree)
    recipe_table = "Table 5" if LEAVES[leaf]["recipe"] in ("in1k_train_224", "in22k_pretrain_224") else "Table 6"
    for wanted in (
        f"tools/dist_train.sh {leaf} 8",
        "Source: arXiv:2201.03545v2, ",
        f"{recipe_table} (recipe)",
        "https://github.com/facebookresearch/ConvNeXt/blob/048efcea",
        "Table 1 (results" if "top1" in LEAVES[leaf] else "Published: nothing",
    ):
        assert wanted in docstring, f"the docstring lacks {wanted!r}"
    assert f"at {LEAVES[leaf]['size']} pixels" in docstring


@each_leaf
def test_gpus_times_images_make_the_published_batch(leaf):
    recipe, cfg = recipe_of(leaf), load(leaf)
    assert cfg.effective_batch == recipe["batch"]
    factors = re.search(r"Batch: (?:(\d+) nodes x )?(\d+) GPUs x (\d+) images = (\d+)", (ROOT / leaf).read_text())
    nodes, gpus, images, total = (int(number or 1) for number in factors.groups())
    assert (nodes * gpus * images, total) == (recipe["batch"], recipe["batch"])
    assert cfg.train_dataloader.batch_size == images
    published = recipe["gpus"] if isinstance(recipe["gpus"], str) else " ".join(recipe["gpus"].values())
    assert f"{nodes}x{gpus}x{images}" in published


@each_leaf
def test_model_is_the_published_one(leaf):
    recipe, cfg, model = recipe_of(leaf), load(leaf).model, LEAVES[leaf]
    architecture = PUBLISHED["architectures"][model["arch"]]
    classes = recipe.get("num_classes", 1000)
    count = sum(param.numel() for param in build(leaf).parameters())
    # beyond the published count, which has 1000 classes: a weight row and a bias per class
    assert count == architecture["params"] + (classes - 1000) * (architecture["channels"][-1] + 1)
    assert cfg.backbone.drop_path_rate == per_arch(recipe["drop_path"], leaf)
    assert cfg.backbone.layer_scale_init_value == 1e-6  # arXiv:2201.03545v2, Table 5
    assert cfg.head_init_scale == recipe["head_init_scale"]
    assert cfg.label_smoothing == recipe["label_smoothing"]
    mixup = cfg.mixup or {"mixup_alpha": 0, "cutmix_alpha": 0}
    assert (mixup["mixup_alpha"], mixup["cutmix_alpha"]) == (recipe["mixup"], recipe["cutmix"])
    if cfg.mixup:
        wanted = (recipe["mixup_prob"], recipe["mixup_switch_prob"], recipe["mixup_mode"])
        assert (mixup.prob, mixup.switch_prob, mixup.mode) == wanted
    if "weights" in model:
        assert cfg.init_cfg.checkpoint == PUBLISHED["weights"]["urls"][model["weights"]]
        assert cfg.init_cfg.type == "Pretrained"
    else:
        assert "init_cfg" not in cfg


@each_leaf
def test_optimizer_decays_what_the_published_one_decays(leaf):
    recipe, cfg, model = recipe_of(leaf), load(leaf), build(leaf)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW
    assert wrapper.clip_grad_kwargs is recipe["grad_clip"]
    names = {id(param): name for name, param in model.named_parameters()}
    seen = set()
    for group in wrapper.optimizer.param_groups:
        assert (list(group["betas"]), group["eps"]) == (recipe["betas"], recipe["eps"])
        for param in group["params"]:
            name = names[id(param)]
            seen.add(name)
            decayed = 0.0 if param.dim() <= 1 or name.endswith(".bias") else recipe["weight_decay"]
            assert group["weight_decay"] == decayed, name
    assert seen == set(names.values())


@each_leaf
def test_learning_rates_by_layer_are_the_published_ones(leaf):
    recipe, groups = recipe_of(leaf), build_optim_wrapper(build(leaf), load(leaf).optim_wrapper).optimizer.param_groups
    scales = {round(group["lr"] / recipe["lr"], 6) for group in groups}
    if recipe["layer_decay"] == 1.0:
        assert scales == {1.0}
    elif LEAVES[leaf]["arch"] == "tiny":  # the official code has no ids for nine blocks; those of its detectors
        assert scales == {round(recipe["layer_decay"] ** power, 6) for power in range(8)}
    else:
        table = RECIPES["layer_decay"][f"scales_0_{recipe['layer_decay'] * 10:.0f}"]
        assert sorted(scales) == pytest.approx(sorted(table.values()), abs=2e-6)


@each_leaf
def test_schedule_is_the_published_cosine_per_iteration(leaf):
    recipe, cfg = recipe_of(leaf), load(leaf)
    assert cfg.train_cfg.max_epochs == recipe["epochs"]
    per_epoch = 7
    warmup, total = recipe["warmup_epochs"] * per_epoch, recipe["epochs"] * per_epoch
    # cosine_scheduler of the official utils.py: linspace(0, lr, warmup), then a cosine over the rest
    rest = total - warmup
    wanted = [recipe["lr"] * step / (warmup - 1) for step in range(warmup)]
    wanted += [
        recipe["min_lr"] + 0.5 * (recipe["lr"] - recipe["min_lr"]) * (1 + math.cos(math.pi * step / rest))
        for step in range(rest)
    ]
    rates = rates_of(cfg.param_scheduler, recipe["lr"], epochs=recipe["epochs"], per_epoch=per_epoch)
    # mmengine reaches the lowest rate one iteration earlier, which moves every rate by less than one iteration's step
    largest_step = max(abs(after - before) for before, after in pairwise(wanted))
    assert rates == pytest.approx(wanted, abs=1.01 * largest_step)
    assert rates[0] == pytest.approx(wanted[0], abs=1e-8)
    assert max(rates) == pytest.approx(recipe["lr"], rel=1e-6)
    assert recipe["min_lr"] <= rates[-1] < 1.05 * recipe["min_lr"]


@each_leaf
def test_moving_average_is_kept_where_it_is_published(leaf):
    cfg = Config.fromfile(ROOT / leaf)
    hooks = [hook for hook in cfg.custom_hooks if hook.type == "EMAHook"]
    assert [1 - hook.momentum for hook in hooks] == ([ema_decay(leaf)] if ema_decay(leaf) else [])
    cfg.launcher = "none"
    counts = cfg.effective_batch // cfg.train_dataloader.batch_size
    accumulate_to_effective_batch(cfg)
    for hook in hooks:
        HOOKS.build(hook)
        assert hook.interval == cfg.optim_wrapper.accumulative_counts == counts


@each_leaf
def test_training_images_are_augmented_as_published(leaf):
    recipe, transform = recipe_of(leaf), load(leaf).train_dataloader.dataset.transform
    erasing = recipe["random_erasing"]
    assert transform.is_training
    assert transform.input_size == LEAVES[leaf]["size"]
    assert transform.auto_augment == recipe["rand_augment"]
    assert transform.color_jitter == recipe["color_jitter"]
    assert transform.interpolation == recipe["train_interpolation"]
    assert (transform.re_prob, transform.re_mode, transform.re_count) == (
        erasing["prob"],
        erasing["mode"],
        erasing["count"],
    )
    build_transform(transform)


@each_leaf
def test_evaluation_crops_at_224_and_warps_at_384(leaf):
    cfg, size = load(leaf), LEAVES[leaf]["size"]
    if LEAVES[leaf]["recipe"] == "in22k_pretrain_224":
        assert cfg.val_dataloader is None
        return
    assert cfg.test_dataloader.dataset == cfg.val_dataloader.dataset
    published = RECIPES["evaluation"][str(size)]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (420, 610, 3), np.uint8))
    bicubic = functional.InterpolationMode.BICUBIC
    if size == 224:
        wanted = functional.center_crop(functional.resize(image, published["resize"], bicubic), published["crop"])
    else:
        wanted = functional.resize(image, [published["warp"]] * 2, bicubic)
    # ImageNet's mean and deviation, as torchvision documents them for its own weights
    wanted = functional.normalize(functional.to_tensor(wanted), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.equal(build_transform(cfg.val_dataloader.dataset.transform)(image), wanted)
