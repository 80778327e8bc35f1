"""Benchmarks the operators that have Triton kernels, one by one, on the maps of a network's four stages."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import measure_in_turns
from convnext_dense.kernels import depthwise_conv2d, layer_norm
from convnext_dense.kernels.choice import OPERATORS, forced
from convnext_dense.layers import ConvNeXtBlock
from convnext_dense.models import ConvNeXt

LIBRARIES = ("torch", "triton")


def measure_kernels(
    arch: str, size: tuple[int, int, int], *, device: str, precision: str, rounds: int, warmups: int
) -> dict[str, Any]:
    """Measure forward and backward of every operator with torch's kernels and, on a GPU, with Triton's.

    The arguments are those of ``measure_backbones``.

    Returns:
        The times of both per stage and operator, and the resulting entry of ``kernels.choice.FASTER_FROM``.
    """
    images, height, width = size
    model = ConvNeXt(arch)
    stages = []
    for channels, stride in zip(model.channels, model.strides, strict=True):
        map_size = images, channels, height // stride, width // stride
        times = {}
        for operator, call in _operators(map_size, device, precision).items():
            libraries = LIBRARIES if device == "cuda" else LIBRARIES[:1]
            ways = {f"{library}, NHWC, eager": _Way(library, call, device, precision) for library in libraries}
            times[operator] = measure_in_turns(ways, device=device, rounds=rounds, warmups=warmups)
        stages.append({"map": list(map_size), "times": times})
    return {
        "task": "kernels", "arch": arch, "size": list(size), "precision": precision, "stages": stages,
        "faster_from": faster_from(stages),
    }  # fmt: skip


def faster_from(stages: list[dict[str, Any]]) -> dict[str, int]:
    """Return the number of elements from which Triton is always faster; omit operators slower on the largest map."""
    entry = {}
    for operator in OPERATORS:
        for stage in sorted(stages, key=lambda stage: -torch.Size(stage["map"]).numel()):
            times = stage["times"][operator]
            ours, stock = (times.get(f"{library}, NHWC, eager", {}).get("ms") for library in ("triton", "torch"))
            if ours is None or ours >= stock:
                break
            entry[operator] = torch.Size(stage["map"]).numel()
    return entry


def _operators(map_size: tuple[int, int, int, int], device: str, precision: str) -> dict[str, Callable[[], Tensor]]:
    """Return the forward passes of a block's operators; under autocast the branch is 16-bit, the shortcut float32."""
    images, channels, height, width = map_size
    dtype = torch.float32 if precision in ("float32", "tf32") else torch.bfloat16
    parameters = torch.bfloat16 if precision == "bfloat16" else torch.float32

    def draw(*shape: int, dtype: torch.dtype = parameters) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype).requires_grad_()

    x, shortcut = draw(images, height, width, channels, dtype=dtype), draw(images, height, width, channels)
    weight, scale, bias = draw(channels, 1, 7, 7), draw(channels), draw(channels)
    block = ConvNeXtBlock(channels, drop_path_rate=0.1).to(device, parameters).train()
    return {
        "depthwise": lambda: depthwise_conv2d(shortcut.permute(0, 3, 1, 2), weight, bias),
        "layer_norm": lambda: layer_norm(x, scale, bias, 1e-6),
        "block": lambda: block(shortcut.permute(0, 3, 1, 2)),
    }


class _Way:
    def __init__(self, library: str, call: Callable[[], Tensor], device: str, precision: str) -> None:
        self.library, self.call, self.device, self.precision = library, call, device, precision
        self.grad: Tensor | None = None

    def __call__(self) -> None:
        autocast = torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "autocast")
        with forced(self.library), autocast:
            output = self.call()
        if self.grad is None:
            self.grad = torch.randn_like(output)
        output.backward(self.grad)
