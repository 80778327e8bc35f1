"""Finds how many images of a training fit into the memory of a GPU."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dataset import COLLATE_FUNCTIONS, pseudo_collate
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS

from convnext_dense.config.channels import fit_to_channels
from convnext_dense.config.device import fit_to_device
from convnext_dense.errors import UserError

# Images that are looked at to find a large one; other batches may still need more, hence the margin.
_NUM_SAMPLES = 16
_USED_SHARE = 0.85


class FoundBatch(NamedTuple):
    """A number of images that fits.

    Attributes:
        batch_size: Images per process and iteration.
        peak_bytes: Largest memory that a step with them allocated.
        total_bytes: Memory of the device.
    """

    batch_size: int
    peak_bytes: int
    total_bytes: int

    def describe(self, target: int) -> str:
        """Return a line for the log; ``target`` is the batch of the recipe."""
        return (
            f"--batch auto: {self.batch_size} images fit ({self.peak_bytes / 2**30:.1f} of "
            f"{self.total_bytes / 2**30:.1f} GiB), accumulated to the {target} of the recipe."
        )


def find_batch(cfg: Config, target: int, *, amp: bool = False) -> FoundBatch | None:
    """Find the largest divisor of the recipe's batch that fits, by training steps on the largest of some images.

    Args:
        cfg: The config of a training; it is not changed.
        target: The batch of the recipe.
        amp: Whether the run uses mixed precision even if the config does not.

    Returns:
        What fits; None on a CPU.

    Raises:
        UserError: Not even one image fits.
    """
    if get_device() != "cuda":
        return None
    total = torch.cuda.get_device_properties(0).total_memory
    step = _training_step(cfg, amp=amp)

    def peak_of(batch_size: int) -> int | None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            step(batch_size)
        except torch.OutOfMemoryError:
            return None
        return torch.cuda.max_memory_allocated()

    found = search(peak_of, target, total)
    torch.cuda.empty_cache()
    return found


def search(peak_of: Callable[[int], int | None], target: int, total: int) -> FoundBatch:
    """Return the largest divisor of ``target`` that fits, trying ever larger ones.

    Args:
        peak_of: Returns the memory in bytes that a step with that many images needs; None if it does not fit.
        target: The batch of the recipe.
        total: Memory of the device in bytes.

    Raises:
        UserError: Not even one image fits.
    """
    found = None
    for batch_size in (size for size in range(1, target + 1) if target % size == 0):
        peak = peak_of(batch_size)
        if peak is None or (found is not None and peak > _USED_SHARE * total):
            break
        found = FoundBatch(batch_size, peak, total)
    if found is None:
        raise UserError(
            "Not even one image fits into the memory of the GPU: choose a smaller backbone or smaller images, or set "
            "model.backbone.with_cp=True, which recomputes activations."
        )
    return found


def _training_step(cfg: Config, *, amp: bool) -> Callable[[int], Any]:
    """Return a function that trains on a batch of copies of the largest of some images."""
    cfg = copy.deepcopy(cfg)
    fit_to_device(cfg, amp=amp)
    fit_to_channels(cfg)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    places = range(0, len(dataset), max(len(dataset) // _NUM_SAMPLES, 1))
    sample = max((dataset[place] for place in places), key=lambda sample: sample["inputs"].numel())
    collate = cfg.train_dataloader.get("collate_fn")
    merge = pseudo_collate if collate is None else COLLATE_FUNCTIONS.get(collate["type"])
    model = MODELS.build(cfg.model).to(get_device()).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)

    def step(batch_size: int) -> Any:
        with torch.enable_grad():
            return model.train_step(merge([copy.deepcopy(sample) for _ in range(batch_size)]), wrapper)

    return step
