"""PSANet's attention maps, converted from positions relative to a pixel to positions in the image.

Letters: N images, P = H * W positions.

Source: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/pytorch/cpu/psamask.cpp
Differs: one gather for all positions, on any device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_COLLECT = 0  # mmcv's number for this type; 1 is "distribute"


def _relative(
    like: Tensor, h_feature: int, w_feature: int, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int
) -> tuple[Tensor, Tensor]:
    """Return the mask index of each target position (rows) for each pixel (columns), and whether it is inside."""
    rows = torch.arange(h_feature, device=like.device)
    columns = torch.arange(w_feature, device=like.device)
    h = rows[:, None, None, None] - rows[None, None, :, None] + half_h_mask
    w = columns[None, :, None, None] - columns[None, None, None, :] + half_w_mask
    inside = (h >= 0) & (h < h_mask) & (w >= 0) & (w < w_mask)
    index = h.clamp(0, h_mask - 1) * w_mask + w.clamp(0, w_mask - 1)
    positions = h_feature * w_feature
    return index.reshape(positions, positions), inside.reshape(positions, positions)


def psamask_forward(input: Tensor, output: Tensor, *, psa_type: int, num_: int, **sizes: int) -> None:
    """Write the maps of ``input``, (N, h_mask * w_mask, H, W), to ``output``, (N, P, H, W)."""
    index, inside = _relative(input, **sizes)
    moved = input.flatten(2).gather(1, index.expand(num_, -1, -1)) * inside
    moved = moved if psa_type == _COLLECT else moved.transpose(1, 2)
    output.copy_(moved.reshape(output.shape))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, *, psa_type: int, num_: int, **sizes: int) -> None:
    """Write the gradients of the input to ``grad_input``."""
    index, inside = _relative(grad_output, **sizes)
    gradients = grad_output.flatten(2)
    gradients = (gradients if psa_type == _COLLECT else gradients.transpose(1, 2)) * inside
    flat = torch.zeros_like(grad_input).flatten(2).scatter_add_(1, index.expand(num_, -1, -1), gradients)
    grad_input.copy_(flat.reshape(grad_input.shape))


OPERATORS: dict[str, Callable[..., None]] = {"psamask_backward": psamask_backward, "psamask_forward": psamask_forward}
