"""Changes the length of a training schedule, and everything in the config that is measured along it."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from convnext_dense.errors import UserError

# Arguments of schedulers that are positions in the run.
_POSITIONS = ("begin", "end", "T_max", "total_steps")
# Arguments of hooks that are numbers of epochs.
_HOOK_EPOCHS = ("switch_epoch", "num_last_epochs", "begin_epoch")
# An epoch-based schedule warms up for a number of iterations; a much shorter one would be nothing but warm-up.
_LONGEST_WARM_UP = 0.1


def set_iterations(cfg: Config, length: int, before: int | None = None) -> None:
    """Give a schedule that counts iterations another length, in place.

    Warm-up, decay, milestones, and the intervals of evaluations and checkpoints keep their share of the run.

    Args:
        cfg: A config with ``train_cfg.max_iters``.
        length: The number of iterations.
        before: The number that everything else in the config is for; by default ``train_cfg.max_iters``.
    """
    ratio = length / (before or cfg.train_cfg.max_iters)
    cfg.train_cfg.max_iters = length
    _scale(cfg.train_cfg, ("val_interval", "val_begin"), ratio)
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint")
    if checkpoint and not checkpoint.get("by_epoch", True):
        _scale(checkpoint, ("interval", "save_begin"), ratio)
    for _, scheduler in schedulers(cfg):
        _scale(scheduler, _POSITIONS, ratio)
        _scale_milestones(scheduler, ratio)
    _give_every_scheduler_steps(cfg)


def set_epochs(cfg: Config, epochs: int, *, iterations_per_epoch: int) -> list[str]:
    """Give any schedule the length of that many passes over the training data, in place.

    Args:
        cfg: The config of a training.
        epochs: The number of passes.
        iterations_per_epoch: Iterations, that is batches, of one pass.

    Returns:
        One sentence, if a warm-up became shorter.

    Raises:
        UserError: ``epochs`` is below 1, or the config says no length.
    """
    check_epochs(epochs)
    if (cfg.get("train_cfg") or {}).get("max_iters") is not None:
        set_iterations(cfg, epochs * iterations_per_epoch)
        return []
    before = (cfg.get("train_cfg") or {}).get("max_epochs")
    if not before:
        raise UserError("--epochs needs a config with train_cfg.max_epochs or train_cfg.max_iters.")
    ratio = epochs / before
    cfg.train_cfg.max_epochs = epochs
    _scale(cfg.train_cfg, ("val_begin",), ratio)
    if intervals := cfg.train_cfg.get("dynamic_intervals"):
        cfg.train_cfg.dynamic_intervals = [[max(round(begin * ratio), 1), interval] for begin, interval in intervals]
    if "val_interval" in cfg.train_cfg:
        cfg.train_cfg.val_interval = min(cfg.train_cfg.val_interval, epochs)
    for hook in cfg.get("custom_hooks") or ():
        _scale(hook, _HOOK_EPOCHS, ratio)
    limit = max(round(_LONGEST_WARM_UP * epochs * iterations_per_epoch), 2)
    notes = []
    for _, scheduler in schedulers(cfg):
        if scheduler.get("by_epoch", True) or not _is_warm_up(scheduler):
            _scale(scheduler, _POSITIONS, ratio)
            _scale_milestones(scheduler, ratio)
        elif ratio < 1 and limit < scheduler.get("end", 0):
            notes.append(
                f"The warm-up takes {limit} iterations instead of {scheduler['end']}, a tenth of the {epochs} epochs."
            )
            scheduler["end"] = limit
    _give_every_scheduler_steps(cfg)
    return notes


def check_epochs(epochs: int) -> None:
    """Raise ``UserError`` if the value of ``--epochs`` is below 1."""
    if epochs < 1:
        raise UserError(f"--epochs {epochs} must be 1 or more.")


def schedulers(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Yield the configs of all schedulers, of several optimizers too, each with its place in the config."""
    yield from _find_schedulers(cfg.get("param_scheduler"), "param_scheduler")


def _find_schedulers(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and "type" in node:
        yield name, node
    elif isinstance(node, dict | list | tuple):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _find_schedulers(child, f"{name}.{key}")


def _is_warm_up(scheduler: Mapping[str, Any]) -> bool:
    return scheduler.get("begin", 0) == 0 and _returns(scheduler)


def _returns(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler starts with a factor that its last step takes back."""
    return str(scheduler["type"]).rpartition(".")[2].startswith(("Linear", "Constant"))


def _give_every_scheduler_steps(cfg: Config) -> None:
    """Make schedulers long enough that a short run left without a step, in place.

    mmengine refuses one that ends where it begins; a warm-up of a single step would keep its first factor for good.
    """
    for _, scheduler in schedulers(cfg):
        least = 2 if _returns(scheduler) and not scheduler.get("convert_to_iter_based") else 1
        if "end" in scheduler:
            scheduler["end"] = max(scheduler["end"], scheduler.get("begin", 0) + least)


def schedule_end(cfg: Config) -> int:
    """Return the iteration at which the last scheduler of a schedule that counts iterations ends."""
    ends = [scheduler["end"] for _, scheduler in schedulers(cfg) if type(scheduler.get("end")) is int]
    return max(ends, default=cfg.train_cfg.max_iters)


def _scale(node: Any, keys: tuple[str, ...], ratio: float) -> None:
    for key in keys:
        value = node.get(key)
        if type(value) in (int, float) and 0 < value < float("inf"):
            node[key] = max(round(value * ratio), 1)


def _scale_milestones(scheduler: Any, ratio: float) -> None:
    if isinstance(milestones := scheduler.get("milestones"), list | tuple):
        scheduler["milestones"] = [max(round(value * ratio), 1) for value in milestones]
