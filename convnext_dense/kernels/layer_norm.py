"""LayerNorm over the last axis that keeps 16-bit inputs in 16 bits, with float32 statistics."""

import torch
from torch import Tensor, nn

from convnext_dense.kernels.choice import on_device_of, runs_on_triton


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, widens: bool = False) -> Tensor:
    """Apply ``torch.nn.functional.layer_norm`` over the last axis.

    Args:
        x: ``(..., C)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to the variance.
        widens: Whether a 16-bit input gives a float32 output under autocast, as with torch's own function.

    Returns:
        ``(..., C)``; 16-bit for a 16-bit input, unless it is widened.
    """
    device = x.device.type
    # Autocast on a GPU would write float32, which the next linear layer would only round again. On a CPU it leaves the
    # norm alone, and torch's kernel accepts float32 parameters with a 16-bit input.
    is_widened = device != "cpu" and x.dtype != torch.float32 and torch.is_autocast_enabled(device)
    if runs_on_triton("layer_norm", x):
        from convnext_dense.kernels.layer_norm_triton import LayerNormTriton

        dtype = torch.float32 if is_widened and widens else x.dtype
        with on_device_of(x):
            return LayerNormTriton.apply(x, weight, bias, eps, dtype)
    if widens or not is_widened:
        return nn.functional.layer_norm(x, weight.shape, weight, bias, eps)
    with torch.autocast(device, enabled=False):
        return nn.functional.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), eps)
