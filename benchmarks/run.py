"""Runs benchmark tasks by name, and formats results for the terminal."""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.backbone import KINDS, MODES, PRECISIONS, measure_backbones
from benchmarks.block import measure_blocks
from benchmarks.checkpoint_loading import describe_setting
from benchmarks.kernels import measure_kernels
from benchmarks.peers import OURS
from benchmarks.report import best_of, clock
from convnext_dense.errors import UserError
from convnext_dense.kernels.choice import read_choice
from convnext_dense.kernels.processor import capabilities

TASKS = ("backbone", "block", "kernels", "detection", "segmentation", "sizes")
__all__ = ["KINDS", "MODES", "PRECISIONS", "TASKS", "run_task", "summarise"]


def run_task(
    *,
    task: str,
    arch: str,
    size: tuple[int, int, int],
    device: str | None,
    precision: str,
    modes: list[str],
    peers: list[str] | None,
    kinds: list[str],
    rounds: int,
    warmups: int,
) -> dict[str, Any]:
    """Run a task; the arguments are those of ``python -m benchmarks``.

    Returns:
        The measurements with hardware, versions and date, as written to benchmarks/results.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "tf32" and device != "cuda":
        raise UserError("precision='tf32' is a mode of NVIDIA GPUs; on a CPU use float32, autocast or bfloat16.")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    setting = _setting(device)
    given: dict[str, Any] = dict(device=device, precision=precision, rounds=rounds, warmups=warmups)
    if task == "backbone":
        result = measure_backbones(arch, size, modes=modes, peers=peers, kinds=kinds, **given)
    elif task == "block":
        result = measure_blocks(arch, size, modes=modes, kinds=kinds, **given)
    elif task == "kernels":
        result = measure_kernels(arch, size, **given)
    else:
        result = _measure_with_openmmlab(task, arch, size, **given)
    return {**result, "rounds": rounds, "setting": setting}


def _measure_with_openmmlab(
    task: str, arch: str, size: tuple[int, int, int], *, rounds: int, warmups: int, **given: Any
) -> dict[str, Any]:
    from benchmarks.models import measure_models
    from benchmarks.sizes import measure_sizes

    if task == "sizes":
        # On a CPU the sides are divided by 8, to finish in reasonable time.
        return measure_sizes(arch, size[0], number=rounds, divisor=1 if given["device"] == "cuda" else 8, **given)
    return measure_models(task, arch, size, rounds=rounds, warmups=warmups, **given)


def _setting(device: str) -> dict[str, Any]:
    setting = describe_setting()
    versions = dict(setting.pop("versions"))  # type: ignore[call-overload]
    for package in ("timm", "torchvision", "transformers", "mmdet", "mmsegmentation"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    processor = capabilities().get("cpu_name", "")
    if device == "cuda":
        setting["hardware"] = torch.cuda.get_device_name()
    elif processor:
        setting["hardware"] = f"{setting['hardware']}, {processor}, {torch.backends.cpu.get_cpu_capability()}"
    setting["kernels"] = read_choice(os.environ)
    return {**setting, "device": device, "threads": torch.get_num_threads(), "versions": versions}


def summarise(result: dict[str, Any]) -> str:
    """Return the result as a table in plain text."""
    size = "x".join(map(str, result["size"]))
    lines = [f"{result['task']}, {result['arch']}, {size}, {result['precision']}, {result['setting']['hardware']}"]
    if result["setting"]["device"] == "cpu":
        lines.append("ms are processor time, summed over all threads")
    lines += [f"  {kind}: {numbers}" for kind, numbers in result.get("runs", {}).items()]
    for part in result.get("stages", [result] if "times" in result else []):
        title = "x".join(map(str, part["map"])) if "map" in part else ""
        for mode, times in part["times"].items():
            best = best_of(times)
            images = result["size"][0]
            lines.append(f"{title} {mode}".strip())
            for (model, kind), (layout, numbers) in best.items():
                ratio = clock(numbers) / clock(best.get((OURS, kind), best[next(iter(best))])[1])  # or the first
                extra = f"{numbers['peak_mb']:9.0f} MB" if "peak_mb" in numbers else ""
                milliseconds = clock(numbers)
                lines.append(
                    f"  {model:<24} {kind:<9} {layout} {milliseconds:10.1f} ms {images / milliseconds * 1e3:9.2f} img/s"
                    f"{extra}  time / ours {ratio:.2f}"
                )
    if "faster_from" in result and result["setting"]["device"] == "cuda":
        dtype = "float32" if "32" in result["precision"] else "bfloat16"
        key = f"({torch.cuda.get_device_capability()}, torch.{dtype})"
        lines.append(f"entry of FASTER_FROM in convnext_dense/kernels/choice.py: {key}: {result['faster_from']}")
    for model, saved in result.get("saved_activations_mb", {}).items():
        lines.append(f"  {model:<24} keeps {saved:.0f} MB of activations for the backward pass")
    return "\n".join(lines)
