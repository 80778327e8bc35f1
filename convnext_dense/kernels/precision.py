"""The precision that products are computed in."""

from functools import cache

import torch
from torch import Tensor

from convnext_dense.kernels.processor import capabilities


def to_autocast(device: str, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Cast tensors as autocast would for a convolution or linear layer on this type of device."""
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        tensors = tuple(tensor if tensor is None else tensor.to(dtype) for tensor in tensors)
    return tensors  # type: ignore[return-value]


def precision_of(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """Return the precision of the product of a map and weights; None if their types differ, which torch refuses."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if x.dtype == weight.dtype else None


def emulates_products(x: Tensor) -> bool:
    """Return whether products of this tensor are faster in float32, including the casts to it and back.

    An x86 processor without bfloat16 instructions emulates them, three times slower than float32 (measured with
    depthwise convolutions and linear layers, AVX-512). Either way the result is bfloat16 and the sums are float32.
    """
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not _multiplies_bfloat16()


@torch.compiler.assume_constant_result  # the query would break the graph; the compiler does not see through the cache
def _multiplies_bfloat16() -> bool:
    return _has_bfloat16_instructions()


@cache
def _has_bfloat16_instructions() -> bool:
    can = capabilities()
    return can["architecture"] != "x86_64" or any(
        can.get(name, False) for name in ("avx512_bf16", "amx_bf16", "avx_ne_convert")
    )
