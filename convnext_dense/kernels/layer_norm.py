"""LayerNorm over the last axis that keeps a 16-bit input 16-bit, with float32 statistics."""

import torch
from torch import Tensor, nn

from convnext_dense.kernels.choice import runs_on_triton


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``torch.nn.functional.layer_norm`` over the last axis, not widened by autocast.

    Args:
        x: ``(..., C)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to the variance.

    Returns:
        ``(..., C)``; of a 16-bit input 16-bit.
    """
    if runs_on_triton("layer_norm", x):
        from convnext_dense.kernels.layer_norm_triton import LayerNormTriton

        return LayerNormTriton.apply(x, weight, bias, eps)[0]
    device = x.device.type
    # Autocast on a GPU would write float32, which the linear layer behind reads only to round it. On a CPU it
    # leaves the norm alone, and torch's kernel takes float32 parameters with a 16-bit input.
    if device == "cpu" or x.dtype == torch.float32 or not torch.is_autocast_enabled(device):
        return nn.functional.layer_norm(x, weight.shape, weight, bias, eps)
    with torch.autocast(device, enabled=False):
        return nn.functional.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), eps)
