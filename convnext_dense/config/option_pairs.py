"""Checks options that mmengine and torch accept one by one but not together, or reject only during the run."""

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from convnext_dense.config.schedule import schedulers
from convnext_dense.errors import UserError

# Options that only loaders with workers may have, and the values that have no effect.
_OF_WORKERS = {"persistent_workers": False, "prefetch_factor": None, "timeout": 0, "multiprocessing_context": None}


def fit_loaders(cfg: Config, loaders: Sequence[str]) -> list[str]:
    """Remove worker options from data loaders without workers, and check the options of all loaders.

    Args:
        cfg: Changed in place.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` will be read.

    Returns:
        One sentence per data loader that was changed.

    Raises:
        UserError: An option is out of its range, or conflicts with another one.
    """
    changes = []
    for name in (f"{loader}_dataloader" for loader in loaders):
        loader = cfg.get(name)
        if not isinstance(loader, dict):
            continue
        _check_numbers(loader, name)
        _check_samplers(loader, name)
        if loader.get("num_workers", 0):
            continue
        dropped = [key for key, off in _OF_WORKERS.items() if loader.get(key, off) != off]
        for key in dropped:
            loader.pop(key)
        if dropped:
            changes.append(
                f"{name} has num_workers=0: {', '.join(dropped)} {'has' if len(dropped) == 1 else 'have'} no effect."
            )
    return changes


def _check_numbers(loader: dict[str, Any], name: str) -> None:
    for key, least in (("batch_size", 1), ("num_workers", 0), ("prefetch_factor", 1), ("timeout", 0)):
        value: Any = loader.get(key)
        if (value is None and key in ("prefetch_factor", "batch_size")) or key not in loader:
            continue
        is_number = type(value) is int or (key == "timeout" and type(value) is float)
        if not is_number or value < least:
            raise UserError(f"{name}.{key}={value!r} must be a whole number, {least} or more.")


def _check_samplers(loader: dict[str, Any], name: str) -> None:
    if "sampler" not in loader:
        raise UserError(f"{name} has no sampler: write sampler=dict(type='DefaultSampler', shuffle=True or False).")
    if "shuffle" in loader:
        raise UserError(
            f"{name}.shuffle={loader['shuffle']!r} cannot be used with a sampler: set {name}.sampler.shuffle."
        )
    if loader.get("batch_sampler") is not None and name != "train_dataloader" and loader.get("drop_last"):
        raise UserError(f"{name}.drop_last=True cannot be used with batch_sampler: remove one of the two.")


def check_units(cfg: Config) -> list[str]:
    """Find what counts epochs in a run that counts iterations.

    In such a run, mmengine steps a scheduler that counts epochs only once, at the end: the learning rate would stay at
    the start of its warm-up.

    Returns:
        One sentence if checkpoints are counted in epochs.

    Raises:
        UserError: A scheduler counts epochs.
    """
    if str(cfg.train_cfg.get("type")).rpartition(".")[2] != "IterBasedTrainLoop":
        return []
    for name, scheduler in schedulers(cfg):
        if scheduler.get("by_epoch", True) and not scheduler.get("convert_to_iter_based"):
            raise UserError(
                f"{name} counts epochs (by_epoch=True), but train_cfg counts iterations: set {name}.by_epoch=False, "
                "and its begin and end in iterations."
            )
    hook = cfg.default_hooks.get("checkpoint") or {}
    if hook.get("by_epoch", True):
        return ["default_hooks.checkpoint counts epochs, but train_cfg iterations: it writes one, at the end."]
    return []
