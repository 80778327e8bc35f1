"""The precision that the operators compute in."""

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in for tensors of ``dtype``: float32 for half and bfloat16, else ``dtype``.

    A coordinate of 1000 pixels has a resolution of half a pixel in half precision and of 8 pixels in bfloat16, box
    areas overflow half, and torchvision has no bfloat16 kernels.
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def widen(like: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Cast all tensors to the dtype to compute in, which the first one determines."""
    dtype = wide_dtype(like.dtype)
    return tuple(tensor.to(dtype) for tensor in (like, *others))
