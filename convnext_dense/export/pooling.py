"""Adaptive average pooling as two products, whose operators take any height and width.

Letters: N images, C channels, H and W height and width, h and w those of the output.
"""

import torch
from torch import Tensor, nn


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` of a fixed output size (h, w); None keeps the length of the input."""

    def __init__(self, size: tuple[int | None, int | None]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return (N, C, h, w)."""
        down, across = (_weights(x_nchw, dim, number) for dim, number in zip((2, 3), self.size, strict=True))
        x_nchw = x_nchw if down is None else down @ x_nchw
        return x_nchw if across is None else x_nchw @ across.T


def _weights(x_nchw: Tensor, dim: int, number: int | None) -> Tensor | None:
    """Return the weight (number, length) of each position in each mean."""
    if number is None:
        return None
    length = x_nchw.shape[dim]
    if number == 1:
        return x_nchw.new_full((1, length), 1.0) / length
    at = torch.arange(length, device=x_nchw.device)[None]
    cell = torch.arange(number, device=x_nchw.device)[:, None]
    start, end = cell * length // number, -(-(cell + 1) * length // number)
    inside = ((at >= start) & (at < end)).to(x_nchw.dtype)
    return inside / inside.sum(1, keepdim=True)


def replace_adaptive_pools(model: nn.Module) -> None:
    """Replace the adaptive average pools of a model in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size if isinstance(child.output_size, tuple) else (child.output_size,) * 2
                setattr(module, name, AdaptivePool(size))
