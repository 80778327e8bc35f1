"""Keeps a recipe's published number of images per optimizer step, whatever the number of processes."""

import os
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from convnext_dense.config.optimizers import wrapper_configs
from convnext_dense.errors import UserError

# Environment variables of the launchers with the number of processes, which mmengine reads only in the Runner.
_WORLD_SIZE = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS"}


def accumulate_to_effective_batch(cfg: Config) -> list[str]:
    """Derive ``optim_wrapper.accumulative_counts`` from the config's ``effective_batch``.

    Moving averages follow optimizer steps, not the batches in between.

    Args:
        cfg: Changed in place; unchanged without ``effective_batch``. ``launcher`` must be set.

    Returns:
        One sentence with the factors, or nothing.

    Raises:
        UserError: The effective batch is not a multiple of processes x batch size.
    """
    effective = cfg.get("effective_batch")
    if effective is None:
        return []
    num_processes = count_processes(cfg.launcher)
    batch_size = cfg.train_dataloader.batch_size
    processes = f"{num_processes} process{'' if num_processes == 1 else 'es'}"
    counts, rest = divmod(effective, num_processes * batch_size)
    if rest or not counts:
        raise UserError(
            f"effective_batch={effective} cannot be met: it is not a multiple of {processes} x {batch_size} "
            "images (train_dataloader.batch_size). Change one of the three."
        )
    for wrapper in wrapper_configs(cfg):
        wrapper["accumulative_counts"] = counts
    for hook in moving_averages(cfg):
        # mmengine updates the average after every batch. It counts from 0, so it sees each step one batch later.
        hook["interval"] = counts
    return [f"Effective batch {effective} = {processes} x {batch_size} x {counts}."]


def count_processes(launcher: str) -> int:
    """Return the number of processes that a launcher has started."""
    return int(os.environ[_WORLD_SIZE[launcher]]) if launcher in _WORLD_SIZE else 1


def moving_averages(cfg: Config) -> Iterator[Any]:
    """Yield the configs of mmengine's hooks that average the weights."""
    for hook in cfg.get("custom_hooks") or []:
        if hook.get("type") == "EMAHook":
            yield hook
