"""Choice between Triton's kernels and torch's own, by operator.

The environment variable ``CONVNEXT_DENSE_KERNELS`` is the only switch: ``torch`` or ``triton`` applies to all
operators; ``auto``, the default, uses Triton for those that were measured to be faster on the GPU at hand. What cannot
run on Triton (a CPU, double precision, function transforms, TorchScript tracing, no Triton installed) always runs on
torch.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from math import inf

import torch
from torch import Tensor

from convnext_dense.errors import UserError
from convnext_dense.kernels.precision import precision_of

OPERATORS = ("depthwise", "layer_norm", "block")
CHOICES = ("auto", "torch", "triton")
# Compute capability of the GPU and dtype of the tensor -> operator -> number of elements of the map from which Triton's
# kernel is faster. ``python -m benchmarks --task kernels`` prints the entry for a GPU. The one for 9.0 comes from whole
# steps of tiny and base on an H100 (docs/performance.md); a block needs fewer launches, so it holds for small maps too.
FASTER_FROM: Mapping[tuple[tuple[int, int], torch.dtype], Mapping[str, float]] = {
    ((9, 0), torch.bfloat16): {"depthwise": 1, "layer_norm": 1, "block": 1},
}


def read_choice(environment: Mapping[str, str]) -> str:
    """Return the value of the switch.

    Raises:
        UserError: The value is not one of ``CHOICES``.
    """
    choice = environment.get("CONVNEXT_DENSE_KERNELS", "auto")
    if choice not in CHOICES:
        raise UserError(f"CONVNEXT_DENSE_KERNELS={choice!r} must be one of {', '.join(CHOICES)}.")
    return choice


_CHOICE = read_choice(os.environ)
_DEVICES = ("cuda",)
# Compilers fuse these with the operators around them; a kernel of our own would prevent that.
_LEFT_TO_COMPILERS = ("layer_norm",)


@contextmanager
def forced(choice: str) -> Iterator[None]:
    """Override the environment's choice with one of ``CHOICES``, for forward passes inside the context."""
    global _CHOICE
    before, _CHOICE = _CHOICE, choice
    try:
        yield
    finally:
        _CHOICE = before


def runs_on_triton(operator: str, x: Tensor, weight: Tensor | None = None) -> bool:
    """Return whether an operator runs on its Triton kernel for this map.

    Args:
        operator: One of ``OPERATORS``.
        x: The map.
        weight: What the map is multiplied by, for an operator whose precision may differ from the map's.
    """
    if x.device.type not in _DEVICES or x.numel() == 0 or needs_torchs_operators():
        return False
    dtype = x.dtype if weight is None else precision_of(x, weight)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    faster_from = _smallest_sizes(x.device, dtype, _CHOICE)[OPERATORS.index(operator)]
    if torch.compiler.is_compiling():  # one graph for all sizes
        return operator not in _LEFT_TO_COMPILERS and faster_from < inf
    return x.numel() >= faster_from


def on_device_of(x: Tensor) -> AbstractContextManager:
    """Return a context that makes the tensor's GPU the current one, on which Triton launches its kernels."""
    if x.device.type == "cuda" and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return nullcontext()


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up; Triton's own function takes as long as launching a kernel."""
    return -(-a // b)


def needs_torchs_operators() -> bool:
    """Return whether only torch's own operators work: under function transforms, tracing and export."""
    return torch._C._are_functorch_transforms_active() or torch.jit.is_tracing() or _is_exporting()


def _is_exporting() -> bool:
    if hasattr(torch.compiler, "is_exporting"):
        return torch.compiler.is_exporting()
    # torch 2.6 has one flag for compiling and exporting; an export that is not strict does not run Dynamo.
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


@torch.compiler.assume_constant_result  # the compiler does not see through the cache
def _smallest_sizes(device: torch.device, dtype: torch.dtype, choice: str) -> tuple[float, ...]:
    return _look_up(device, dtype, choice)


@cache
def _look_up(device: torch.device, dtype: torch.dtype, choice: str) -> tuple[float, ...]:
    """Return the number of elements from which each operator runs on Triton, and print the choice once."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if importlib.util.find_spec("triton") is None:
        sizes, reason = [inf] * len(OPERATORS), "Triton is not installed"
    elif choice == "auto":
        measured = FASTER_FROM.get((capability, dtype), {})
        sizes = [measured.get(operator, inf) for operator in OPERATORS]
        reason = "as measured" if measured else "not measured here; CONVNEXT_DENSE_KERNELS=triton turns them on"
    else:
        sizes = [0 if choice == "triton" else inf] * len(OPERATORS)
        reason = f"CONVNEXT_DENSE_KERNELS={choice}"
    chosen = ", ".join(operator for operator, size in zip(OPERATORS, sizes, strict=True) if size < inf) or "none"
    print(f"convnext_dense: Triton kernels on {name} for {str(dtype).removeprefix('torch.')}: {chosen} ({reason})")
    return tuple(sizes)
