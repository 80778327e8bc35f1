"""Fits the recipe of a fine-tuning config to the data and the batch, and says what came out.

Such a config has ``finetune``, a dict with

- ``batch_size``: images per optimizer step that the learning rate is for;
- ``epochs``: passes over the training data, and ``steps``, the least and the largest number of optimizer steps;
- ``evaluations``: the largest number of evaluations, of which there are fewer where they would take long;
- ``object_size`` and ``image_size``, if images are resized so that the median object has that side in pixels; the
  latter is the size that the pipelines name, and ``crop_size``, if crops follow it, see ``set_image_size``;
- ``augmentation``: name of the augmentation in use.

The rest of the schedule, warm-up and intervals, is written for some length and keeps its share of the run.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from mmengine.config import Config
from mmengine.registry import MODELS

from convnext_dense.config.batch import count_processes, moving_averages
from convnext_dense.config.datasets import config_dicts, loaded_datasets
from convnext_dense.config.optimizers import wrapper_configs
from convnext_dense.config.options import option_value
from convnext_dense.config.pipelines import step_name
from convnext_dense.config.schedule import check_epochs, schedule_end, set_epochs, set_iterations
from convnext_dense.errors import UserError

# A moving average over the last twentieth of the steps follows the weights closely, and smooths the noise of batches.
_AVERAGED_SHARE = 0.05
_LARGEST_MOMENTUM = 0.1
# Evaluating an image costs about a third of training on one of its size: with this share of the images, about a tenth
# of the time.
_EVALUATED_SHARE = 0.3
_LEAST_EVALUATIONS = 3
_LEAST_LINES = 20  # with losses, in the log of a run
_EARLY_STOPPING = "EarlyStoppingHook"
NAME_A_METRIC = "set default_hooks.checkpoint.save_best to the name of one, such as coco/bbox_mAP or mIoU."
# A median object is resized to `object_size`, but an image never to a long side beyond these pixels.
_IMAGE_SIZES = (256, 512)
_SIZE_STEP = 32  # the stride of the deepest stage
# Entries of ``finetune`` that a run writes -> what to use instead of an option.
_FOUND = {
    "batch_size": "use --batch N; the learning rate follows",
    "base_batch_size": "use --batch N; the learning rate follows",
    "image_size": "set finetune.object_size, the side in pixels of the median object, from which it follows",
    "num_images": "the images of the data are counted",
    "augmentation": "use --augment NAME",
}


class Choices(NamedTuple):
    """What a user chose about a training; None leaves it to the config.

    Attributes:
        epochs: Passes over the training data.
        batch: Images per process; ``'auto'`` for as many as fit, accumulated to the batch of the recipe.
        early_stop: Evaluations without a better one that end the run; 0 for none.
        freeze: Number of stages of the backbone, counted from the stem, that do not learn.
        augment: Name of an augmentation of the config.
    """

    epochs: int | None = None
    batch: int | Literal["auto"] | None = None
    early_stop: int | None = None
    freeze: int | None = None
    augment: str | None = None


def fit_length(
    cfg: Config,
    choices: Choices,
    num_images: int,
    *,
    num_evaluated: int = 0,
    given_iters: int | None = None,
    given_counts: int | None = None,
) -> list[str]:
    """Fit the length of a training, and what depends on it, to the number of its images, in place.

    A config with ``finetune`` gets its number of steps, learning rate and moving average; any other one changes only
    with ``choices.epochs``.

    Args:
        cfg: The config of a training, whose batch size is final.
        choices: See ``Choices``.
        num_images: Number of training images.
        num_evaluated: Number of images of an evaluation.
        given_iters: Number of iterations that the user gave.
        given_counts: Number of iterations per optimizer step that the user gave.

    Returns:
        Lines for the log.

    Raises:
        UserError: ``choices.epochs`` is below 1, or the config says no length.
    """
    recipe = cfg.get("finetune")
    per_iteration = cfg.train_dataloader.batch_size * count_processes(cfg.get("launcher", "none"))
    if recipe is None:
        if choices.epochs is None:
            return []
        return set_epochs(cfg, choices.epochs, iterations_per_epoch=max(round(num_images / per_iteration), 1))
    batch = cfg.get("effective_batch") or per_iteration * (given_counts or 1)
    if choices.epochs is not None:
        check_epochs(choices.epochs)
        recipe.epochs, recipe.steps = choices.epochs, (1, None)
    steps = _num_steps(recipe, num_images, batch)
    accumulated = max(batch // per_iteration, 1)
    set_iterations(cfg, given_iters or steps * accumulated, before=schedule_end(cfg))
    cost = max(num_evaluated * _pixel_ratio(recipe), 1)
    evaluations = _EVALUATED_SHARE * cfg.train_cfg.max_iters * per_iteration / cost
    evaluations = min(max(round(evaluations), _LEAST_EVALUATIONS), recipe.evaluations)
    interval = -(-cfg.train_cfg.max_iters // evaluations)
    cfg.train_cfg.val_interval = cfg.default_hooks.checkpoint.interval = interval
    logger: Any = cfg.default_hooks.get("logger") or {}
    if "interval" in logger:  # a short run has losses to look at too
        logger.interval = min(logger.interval, max(cfg.train_cfg.max_iters // _LEAST_LINES, 1))
    for wrapper in wrapper_configs(cfg):
        wrapper.optimizer.lr *= (batch / recipe.batch_size) ** 0.5
    for hook in moving_averages(cfg):
        hook.momentum = min(1 / (_AVERAGED_SHARE * cfg.train_cfg.max_iters / accumulated), _LARGEST_MOMENTUM)
    recipe.setdefault("base_batch_size", recipe.batch_size)  # a config that a run wrote has it
    recipe.batch_size, recipe.num_images = batch, num_images
    return []


def _pixel_ratio(recipe: Mapping[str, Any]) -> float:
    """Return how many times the pixels of a training crop an image of an evaluation has."""
    size, crop = recipe.get("image_size"), recipe.get("crop_size")
    return max(size / crop, 1) ** 2 if size and crop else 1


def _num_steps(recipe: Mapping[str, Any], num_images: int, batch: int) -> int:
    least, largest = recipe["steps"]
    steps = max(round(recipe["epochs"] * num_images / batch), least)
    return steps if largest is None else min(steps, largest)


def check_recipe(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Raise ``UserError`` if the user set what a run finds out, or a number that is out of its range."""
    for key, instead in _FOUND.items():
        if option_value(options, f"finetune.{key}") is not None:
            raise UserError(f"finetune.{key} is no option: {instead}.")
    recipe = cfg.finetune
    least, largest = recipe.steps
    if not (recipe.epochs > 0 and recipe.evaluations >= 1 and least >= 1 and (largest is None or largest >= least)):
        raise UserError(
            f"finetune has epochs={recipe.epochs}, evaluations={recipe.evaluations} and steps={tuple(recipe.steps)}: "
            "epochs and evaluations must be above 0, and steps the least and the largest number of them."
        )


def fit_image_size(cfg: Config, object_share: float | None, longest: int | None) -> None:
    """Resize images so that the median object has the ``object_size`` of the recipe, in place.

    Args:
        cfg: The config of a training, with ``finetune.object_size``; unchanged without objects.
        object_share: See ``training_images.object_share``.
        longest: Median long side of the training images in pixels. Images up to 256 pixels are never made smaller.
    """
    if object_share is None or longest is None:
        return
    smallest, largest = min(longest, _IMAGE_SIZES[0]), _IMAGE_SIZES[1]
    size = min(max(cfg.finetune.object_size / object_share, smallest), largest)
    set_image_size(cfg, max(round(size / _SIZE_STEP), 1) * _SIZE_STEP)


def set_image_size(cfg: Config, size: int) -> None:
    """Replace the size that the pipelines of a config name, ``finetune.image_size``, by another one, in place.

    Crops are as large as ``finetune.crop_size`` says, but not larger than images: what is cut off then is what a
    random scale has enlarged, and a batch takes no more time than its images.
    """
    before, cfg.finetune.image_size = cfg.finetune.image_size, size
    crop = min(cfg.finetune.get("crop_size") or 0, size)
    for node in config_dicts([cfg[key] for key in cfg if key != "model"]):
        if "type" in node and list(node.get("scale") or ()) == [before, before]:
            node["scale"] = (size, size)
        if crop and "type" in node and step_name(node) == "RandomCrop":
            node["crop_size"] = (crop, crop)


def record_image_size(cfg: Config) -> list[str]:
    """Write the size into the training data's metainfo, which mmengine stores in every checkpoint, in place."""
    size = (cfg.get("finetune") or {}).get("image_size")
    for _, dataset in loaded_datasets(cfg, ["train"] if size else []):
        dataset.metainfo = dict(dataset.get("metainfo") or {}, image_size=size)
    return []


def use_trained_image_size(cfg: Config, metainfo: Mapping[str, Any]) -> None:
    """Let a config resize images as a checkpoint was trained to, in place, whose ``dataset_meta`` is given."""
    recipe = cfg.get("finetune") or {}
    if recipe.get("image_size") and metainfo.get("image_size"):
        set_image_size(cfg, int(metainfo["image_size"]))


def early_stopping_hooks(cfg: Config) -> Iterator[tuple[int, Any]]:
    """Yield the hooks that end a run early, each with its place in ``custom_hooks``."""
    for index, hook in enumerate(cfg.get("custom_hooks") or ()):
        if str(hook.get("type")).endswith(_EARLY_STOPPING):
            yield index, hook


def set_early_stopping(cfg: Config, patience: int) -> None:
    """End a training after that many evaluations without a better one, in place; 0 for never.

    Raises:
        UserError: ``patience`` is negative, or the config does not name a metric to watch.
    """
    if patience < 0:
        raise UserError(f"--early-stop {patience} must be 0, for never, or more.")
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if patience and watched_metric(checkpoint.get("save_best")) is None:
        raise UserError(f"--early-stop {patience} needs a metric to watch: {NAME_A_METRIC}")
    found = dict(early_stopping_hooks(cfg))
    hooks = [hook for index, hook in enumerate(cfg.get("custom_hooks") or ()) if index not in found]
    if patience:
        hooks.append(dict(type=f"convnext_dense.{_EARLY_STOPPING}", patience=patience))
    cfg.custom_hooks = hooks


def freeze_stages(cfg: Config, number: int) -> None:
    """Freeze the first stages of the backbone, in place.

    Raises:
        UserError: The config has no backbone, or one that cannot freeze stages, or the number is not in 0..4.
    """
    backbone = cfg.model.get("backbone")
    if backbone is None:
        raise UserError("--freeze needs a config with model.backbone.")
    if number not in range(5):
        raise UserError(f"--freeze {number} must be a number of stages in 0..4.")
    kind = backbone.type if inspect.isclass(backbone.type) else MODELS.get(backbone.type)
    bases = getattr(kind, "__mro__", ())  # a subclass may hand its arguments on
    if bases and not any("frozen_stages" in inspect.signature(base.__init__).parameters for base in bases):
        raise UserError(f"--freeze needs a backbone that can freeze stages, but {backbone.type} cannot.")
    is_ours = getattr(kind, "__module__", "").startswith("convnext_dense.")
    backbone.frozen_stages = number if is_ours or number else -1  # for OpenMMLab's, 0 is the stem


def describe_recipe(cfg: Config, *, resumed: bool = False) -> list[str]:
    """Return four lines about the recipe of a config with ``finetune``: length, learning rate, evaluation, weights.

    Args:
        cfg: The config of a run.
        resumed: Whether the run goes on from a checkpoint.
    """
    recipe = cfg.get("finetune")
    if recipe is None or "num_images" not in recipe:
        return []
    iters, images, batch = cfg.train_cfg.max_iters, recipe.num_images, recipe.batch_size
    counts = max(next(wrapper_configs(cfg)).get("accumulative_counts", 1), 1)
    lr = next(wrapper_configs(cfg)).optimizer.lr
    steps = iters // counts
    least, largest = recipe.steps
    bounds = f", within {least:,} to {largest:,} steps" if largest else ""
    length = f"{recipe.epochs} epochs{bounds}; --epochs N"
    if steps != _num_steps(recipe, images, batch):
        length = "by train_cfg.max_iters in --cfg-options"
    warm_up = next((part.end for part in cfg.param_scheduler if str(part.type).startswith("Linear")), 0)
    size = f"; images are resized to {recipe.image_size}" if recipe.get("object_size") else ""
    stop = next((hook for _, hook in early_stopping_hooks(cfg)), None)
    evaluations = -(-iters // cfg.train_cfg.val_interval)
    ends = ""
    if stop and stop.patience < evaluations:
        ends = f"; {stop.patience} in a row without a better one end{'s' * (stop.patience == 1)} the run"
    elif stop:
        ends = f"; {evaluations} evaluation{'s' * (evaluations != 1)} are too few to end the run early"
    average = next(moving_averages(cfg), None)
    averaged = f"an average over about {min(round(1 / average.momentum), steps)} steps" if average else "no average"
    is_evaluated = cfg.get("val_cfg", {}) is not None
    start = "" if resumed else f"the run starts from {_start(cfg)}; "
    frozen = cfg.model.backbone.get("frozen_stages") or 0
    names = ", ".join(cfg.get("augmentations") or ())
    return [
        f"Length: {steps:,} steps of {batch} images, {steps * batch / images:.1f} epochs of {images:,} images "
        f"({length}){size}.",
        f"Learning rate: {lr:.3g}, by the square root of the batch ({recipe.base_batch_size} in the recipe; "
        f"--batch N), after a warm-up of {warm_up // counts:,} step{'s' * (warm_up // counts != 1)} "
        "(--cfg-options optim_wrapper.optimizer.lr=X param_scheduler.0.end=N).",
        f"Evaluation: every {cfg.train_cfg.val_interval:,} iterations (--cfg-options train_cfg.val_interval=N); the "
        f"best {watched_metric(cfg.default_hooks.checkpoint.get('save_best'))} is kept{ends} (--early-stop N)."
        if is_evaluated
        else f"Evaluation: none; there is a checkpoint every {cfg.default_hooks.checkpoint.interval:,} iterations "
        "(--cfg-options default_hooks.checkpoint.interval=N).",
        f"Weights: {start}{averaged} is {'evaluated and ' if is_evaluated else ''}saved; {frozen} of 4 "
        "stages are frozen (--freeze N); "
        f"augmentation {recipe.get('augmentation', 'of the config')} (--augment NAME: {names}).",
    ]


def _start(cfg: Config) -> str:
    """Return what the weights of a training start from."""
    for holder in (cfg, cfg.model, cfg.model.get("backbone") or {}):
        source = holder.get("load_from") or (holder.get("init_cfg") or {}).get("checkpoint")
        if source:
            return str(source)
    return "random values"


def watched_metric(save_best: Any) -> str | None:
    """Return the metric by which a checkpoint hook keeps the best checkpoint; None if the config does not name it."""
    first = save_best[0] if isinstance(save_best, list | tuple) and save_best else save_best
    return first if isinstance(first, str) and first != "auto" else None
