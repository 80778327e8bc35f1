"""What the processes of a run agree on, or are made to, and what a process holds."""

import resource
import sys
from typing import Any

from mmengine.dist import all_gather_object, all_reduce_params, get_world_size
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from convnext_dense.errors import UserError


def check_processes_agree(runner: Any, first_batch: int = 0) -> None:
    """Check that all processes train on the same data, from the same position.

    Raises:
        UserError: Two processes differ.
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
                raise UserError(
                    f"Processes disagree on {name}: {value} in process 0, {other[name]} in process {rank}. Every "
                    "machine must see the same data and the same work dir."
                )


def average_statistics(model: nn.Module) -> None:
    """Average the running statistics of BatchNorm over processes, each of which has its own, in place.

    Otherwise a validation would mix the statistics of all processes, and a checkpoint would have those of the first.
    """
    if get_world_size() > 1:
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False) if buffer.is_floating_point()]
        all_reduce_params(buffers, op="mean")


def check_batches(loader: Any, name: str) -> None:
    """Check that a data loader has at least one batch.

    Args:
        loader: The data loader.
        name: Key of the data loader in the config.

    Raises:
        UserError: It has no batch.
    """
    if length_of(loader) == 0:
        size = getattr(loader.batch_sampler, "batch_size", loader.batch_size)
        raise UserError(
            f"{name} has no batch: {length_of(loader.dataset)} images in {get_world_size()} process(es) do not fill "
            f"one of batch_size={size}. Lower {name}.batch_size, or set {name}.drop_last=False."
        )


def length_of(data: Any) -> int | None:
    """Return the number of images or batches; None if it is unknown."""
    try:
        return len(data)
    except TypeError:  # a stream
        return None


def peak_process_memory() -> int:
    """Return the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
