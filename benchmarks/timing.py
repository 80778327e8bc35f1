"""Measures several ways of doing the same thing in turns, in one process."""

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import quantiles

import torch
from torch import nn


def measure_in_turns(
    ways: Mapping[str, Callable[[], object]], *, device: str, rounds: int, warmups: int
) -> dict[str, dict[str, float]]:
    """Call every way once per round, in rotating order.

    Args:
        ways: What to call, by name.
        device: ``'cpu'`` or ``'cuda'``.
        rounds: Number of measured calls of each way.
        warmups: Number of calls of each way before; they include compilation.

    Returns:
        Per way: median, 10 % and 90 % quantile of the wall-clock time in milliseconds; on a CPU also of processor time,
        which excludes the time of other processes; on a GPU also the peak memory of a call in MB, in addition to what
        was allocated before it.
    """
    names = list(ways)
    wall: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    peak: dict[str, float] = {}
    for turn in range(-warmups, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            held = _reset_peak(device)
            start, start_processor = _now(device), time.process_time()
            ways[name]()
            seconds, processor_seconds = _now(device) - start, time.process_time() - start_processor
            if turn >= 0:
                wall[name].append(seconds)
                processor[name].append(processor_seconds)
            if device == "cuda":
                peak[name] = round((torch.cuda.max_memory_allocated() - held) / 1e6, 1)
    result = {name: _spread("ms", wall[name]) for name in names}
    for name in names:
        result[name].update(_spread("processor_ms", processor[name]) if device == "cpu" else {"peak_mb": peak[name]})
    return result


def saved_megabytes(function: Callable[[], object], model: nn.Module) -> float:
    """Return the MB that autograd keeps for the backward pass of a call, without parameters or duplicates."""
    own = {param.untyped_storage().data_ptr() for param in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = function()
    del result
    return round(sum(storage.nbytes() for storage in kept.values()) / 1e6, 1)


def cpu_name() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak(device: str) -> int:
    if device != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _spread(unit: str, seconds: list[float]) -> dict[str, float]:
    deciles = quantiles(seconds, n=10, method="inclusive") if len(seconds) > 1 else seconds * 9
    return {
        unit: round(deciles[4] * 1e3, 2),
        f"{unit}_p10": round(deciles[0] * 1e3, 2),
        f"{unit}_p90": round(deciles[8] * 1e3, 2),
    }
