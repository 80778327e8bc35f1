"""Measures time and compilations over images of many sizes, as in the training of a detector."""

import time
from types import SimpleNamespace
from typing import Any

import torch
from torch._dynamo.utils import counters

from convnext_dense.engine import CompileBackboneHook
from convnext_dense.models import ConvNeXt

NUM_SIZES = 200
# COCO's most frequent image is 640 x 480; training scales the shorter side to 480..800, the longer to at most 1333,
# and a batch is padded to multiples of 32 (configs/_base_/datasets/coco_instance.py).
SHORT_SIDES = range(480, 801, 32)
RATIOS = (4 / 3, 3 / 4, 3 / 2, 2 / 3, 1.0, 16 / 9)


def draw_sizes(number: int, divisor: int) -> list[tuple[int, int]]:
    """Draw heights and widths of batches as in COCO training, divided by ``divisor`` to fit a small machine."""
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for _ in range(number):
        short = SHORT_SIDES[int(torch.randint(len(SHORT_SIDES), (), generator=generator))]
        ratio = RATIOS[int(torch.randint(len(RATIOS), (), generator=generator))]
        long = min(1333, round(short * max(ratio, 1 / ratio)))
        height, width = (long, short) if ratio < 1 else (short, long)
        sizes.append(tuple(max(64, -(-side // divisor // 32) * 32) for side in (height, width)))
    return sizes  # type: ignore[return-value]


def measure_sizes(
    arch: str, images: int, *, device: str, precision: str, number: int = NUM_SIZES, divisor: int = 1
) -> dict[str, Any]:
    """Train the backbone for one step per size, eager and compiled by ``CompileBackboneHook``.

    Returns:
        For each: total seconds, seconds of the first step, number of graphs compiled in the first step and after it,
        and the time of the later steps relative to the same number of steps at one size with the same number of pixels.
    """
    sizes = draw_sizes(number, divisor)
    pixels = sum(height * width for height, width in sizes[1:]) / (len(sizes) - 1)
    side = max(64, round(pixels**0.5 / 32) * 32)
    torch._dynamo.reset()
    result = {}
    for kind in ("eager", "compiled"):
        torch.manual_seed(0)
        model = ConvNeXt(arch).to(device).train()
        if kind == "compiled":
            CompileBackboneHook().before_run(SimpleNamespace(model=SimpleNamespace(backbone=model)))
        counters.clear()
        first = _train(model, sizes[:1], images, device, precision)
        warm = counters["stats"]["unique_graphs"]
        rest = _train(model, sizes[1:], images, device, precision)
        recompiled = counters["stats"]["unique_graphs"] - warm
        same = _train(model, [(side, side)] * (len(sizes) - 1), images, device, precision)
        relative = rest / same * side**2 / pixels
        result[kind] = {
            "seconds": round(first + rest, 2), "first_step_seconds": round(first, 2), "graphs": warm,
            "graphs_after_first_step": recompiled, "relative_to_one_size": round(relative, 3),
        }  # fmt: skip
    return {"task": "sizes", "arch": arch, "size": [images, number, divisor], "precision": precision, "runs": result}


def _train(model: ConvNeXt, sizes: list[tuple[int, int]], images: int, device: str, precision: str) -> float:
    start = time.process_time() if device == "cpu" else time.perf_counter()
    for height, width in sizes:
        model.zero_grad()
        image = torch.rand(images, 3, height, width, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "autocast"):
            features = model(image)
        sum(feature.float().square().mean() for feature in features).backward()  # type: ignore[union-attr]
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.process_time() if device == "cpu" else time.perf_counter()) - start
