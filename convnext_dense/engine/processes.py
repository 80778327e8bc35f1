"""Faults of runs in several processes: those that do not agree, and those that are gone."""

from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from torch.distributed import DistError

# How gloo and NCCL say that another process is gone; gloo's are plain RuntimeErrors.
_SIGNS = ("Connection closed", "Connection reset", "Broken pipe", "Timed out", "timed out", "timeout", "NCCL")


def check_processes_agree(runner: Any, first_batch: int = 0) -> None:
    """Compares what every process is about to train on, and from where.

    Raises:
        ValueError: Processes differ.
    """
    facts = {
        "training images": length_of(runner.train_dataloader.dataset),
        "training batches": length_of(runner.train_dataloader),
        "epochs done": runner.epoch,
        "iterations done": runner.iter,
        "batches of this epoch done": first_batch,
    }
    if runner.val_loop is not None:
        facts["validation images"] = length_of(runner.val_dataloader.dataset)
    others = all_gather_object(facts)
    for name, value in others[0].items():
        for rank, other in enumerate(others):
            if other[name] != value:
                raise ValueError(
                    f"Processes disagree on {name}: {value} in process 0, {other[name]} in process {rank}. Every "
                    "machine must see the same data and the same work dir."
                )


def check_batches(loader: Any, name: str) -> None:
    """Sees to it that a data loader has something to give.

    Args:
        loader: The data loader.
        name: Its key in the config.

    Raises:
        ValueError: It has no batch.
    """
    if length_of(loader) == 0:
        size = getattr(loader.batch_sampler, "batch_size", loader.batch_size)
        raise ValueError(
            f"{name} has no batch: {length_of(loader.dataset)} images in {get_world_size()} process(es) do not fill "
            f"one of batch_size={size}. Lower {name}.batch_size, or set {name}.drop_last=False."
        )


def explain_lost_process(error: RuntimeError, last_checkpoint: str | None) -> str | None:
    """Says in one sentence that another process is gone or stuck, if that is what the error of a collective means."""
    if get_world_size() == 1 or not (isinstance(error, DistError) or any(sign in str(error) for sign in _SIGNS)):
        return None
    return (
        f"Another process of this run is gone or stuck, process {get_rank()} cannot go on "
        f"({str(error).strip().splitlines()[0]}). The last checkpoint is {last_checkpoint or 'none'}: go on from there "
        "with --resume."
    )


def length_of(data: Any) -> int | None:
    """Gives the number of images or batches; None where it is not known."""
    try:
        return len(data)
    except TypeError:  # a stream
        return None
