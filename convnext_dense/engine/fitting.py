"""Fits the config of a training to its data, its device and the user's choices."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from convnext_dense.config.batch import count_processes
from convnext_dense.config.finetuning import (
    Choices,
    check_recipe,
    early_stopping_hooks,
    fit_image_size,
    fit_length,
    freeze_stages,
    set_early_stopping,
)
from convnext_dense.config.options import check_flag, option_value
from convnext_dense.data.training_images import longest_side, object_share, training_images
from convnext_dense.engine.batch_search import find_batch
from convnext_dense.errors import UserError


def fit_recipe(
    cfg: Config, choices: Choices, options: Mapping[str, Any] | None, *, launcher: str, amp: bool = False
) -> list[str]:
    """Fit a config, once its data is set, to the number of its images and to what the user chose, in place.

    Args:
        cfg: The config of a training.
        choices: See ``Choices``.
        options: The user's, see ``apply_options``.
        launcher: How processes are started.
        amp: Whether the run uses mixed precision even if the config does not.

    Returns:
        Lines for the log.

    Raises:
        UserError: A choice is out of its range or contradicts an option, or the config cannot follow it.
    """
    cfg.launcher = launcher
    notes: list[str] = []
    if choices.freeze is not None:
        check_flag(options, "model.backbone.frozen_stages", choices.freeze, f"--freeze {choices.freeze}")
        freeze_stages(cfg, choices.freeze)
    if choices.early_stop is not None:
        for index, _ in early_stopping_hooks(cfg):
            key = f"custom_hooks.{index}.patience"
            check_flag(options, key, choices.early_stop, f"--early-stop {choices.early_stop}")
        set_early_stopping(cfg, choices.early_stop)
    recipe = cfg.get("finetune")
    if recipe is None and choices.epochs is None and choices.batch is None:
        return notes
    if choices.epochs is not None:
        for key in ("train_cfg.max_epochs", "train_cfg.max_iters"):
            check_flag(options, key, choices.epochs if key.endswith("epochs") else None, f"--epochs {choices.epochs}")
    if recipe is not None:
        check_recipe(cfg, options)
    if recipe is not None and recipe.get("object_size"):
        fit_image_size(cfg, object_share(cfg), longest_side(cfg))
    # Data of other kinds is built, to be counted.
    num_images = len(training_images(cfg)) or len(DATASETS.build(cfg.train_dataloader.dataset))
    if choices.batch is not None:
        notes += _set_batch(cfg, choices.batch, options, amp=amp)
    if recipe is not None and option_value(options, "train_dataloader.batch_size") is None:
        largest = max(num_images // count_processes(launcher), 1)
        if cfg.train_dataloader.batch_size > largest:
            notes.append(
                f"A batch has {largest} images instead of {cfg.train_dataloader.batch_size}: there are no more."
            )
            cfg.train_dataloader.batch_size = largest
            if cfg.get("effective_batch"):
                cfg.effective_batch = max(cfg.effective_batch // largest, 1) * largest
    return notes + fit_length(
        cfg,
        choices,
        num_images,
        num_evaluated=len(training_images(cfg, "val")) if recipe and cfg.get("val_dataloader") else 0,
        given_iters=option_value(options, "train_cfg.max_iters"),
        given_counts=option_value(options, "optim_wrapper.accumulative_counts"),
    )


def _set_batch(cfg: Config, batch: int | str, options: Mapping[str, Any] | None, *, amp: bool) -> list[str]:
    """Set the images per process, in place; ``'auto'`` keeps the batch of the recipe by accumulating gradients."""
    check_flag(options, "train_dataloader.batch_size", batch, f"--batch {batch}")
    if batch != "auto" and (not isinstance(batch, int) or batch < 1):
        raise UserError(f"--batch {batch!r} must be a number of images, 1 or more, or auto.")
    if batch != "auto":
        cfg.train_dataloader.batch_size = batch
        return []
    target = (
        (cfg.get("finetune") or {}).get("batch_size")
        or cfg.get("effective_batch")
        or (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    )
    if target is None:
        raise UserError(
            "--batch auto needs a config that says what batch its learning rate is for: auto_scale_lr.base_batch_size, "
            "or effective_batch."
        )
    if cfg.launcher != "none":
        raise UserError(
            "--batch auto looks for the batch in a single process: do so once without --launcher, and give what it "
            "finds with --batch N."
        )
    found = find_batch(cfg, target, amp=amp)
    if found is None:
        return [f"--batch auto is for GPUs: the batch stays {cfg.train_dataloader.batch_size}."]
    cfg.train_dataloader.batch_size, cfg.effective_batch = found.batch_size, target
    return [found.describe(target)]
