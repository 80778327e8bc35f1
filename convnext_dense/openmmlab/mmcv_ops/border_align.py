"""Border align: the maximum of a feature along each side of a box.

Letters: N images, C channels per side, H and W size of the map, B boxes per image. The sides are top, left, bottom and
right, each with its own C channels; the first two run from the corner x1, y1, the others from x2, y2.

Source: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/border_align_cuda_kernel.cuh
(arXiv 2007.11056, section 3.2)
Differs: runs on the CPU too. Half and bfloat16 inputs are computed in float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from convnext_dense.openmmlab.mmcv_ops.bilinear import points_inside, sample, sampling_grid
from convnext_dense.openmmlab.mmcv_ops.precision import wide_dtype, widen

_BILINEAR, _BORDER = 0, 1  # grid_sample's modes, as torch's own operators number them


def _starts_and_steps(boxes: Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates (y, x) of the first point of every side and the step to the next, each (2, N, 4, B)."""
    x1, y1, x2, y2 = boxes.unbind(dim=2)
    across, down, none = (x2 - x1) / pool_size, (y2 - y1) / pool_size, torch.zeros_like(x1)
    starts = (torch.stack((y1, y1, y2, y2), dim=1), torch.stack((x1, x1, x2, x2), dim=1))
    steps = (torch.stack((none, down, none, -down), dim=1), torch.stack((across, none, -across, none), dim=1))
    return torch.stack(starts), torch.stack(steps)


def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, *, pool_size: int) -> None:
    """Write the maximum over ``pool_size + 1`` points of every side.

    Args:
        input: (N, 4 * C, H, W), with the channels of the four sides in turn.
        boxes: (N, B, 4), x1, y1, x2, y2 in pixels of the map.
        output: (N, C, B, 4), overwritten.
        argmax_idx: (N, C, B, 4) int, overwritten with the index of the first point that has the maximum.
        pool_size: Number of equal parts of a side.
    """
    wide, boxes = widen(input, boxes)
    maps = wide.unflatten(1, (4, -1)).flatten(0, 1)
    starts, steps = _starts_and_steps(boxes, pool_size)
    values = maps.new_full((maps.shape[0], maps.shape[1], boxes.shape[1]), -torch.inf)
    best = torch.zeros_like(values, dtype=argmax_idx.dtype)
    for point in range(pool_size + 1):
        y, x = (starts + point * steps).flatten(1, 2)[..., None]
        here = sample(maps, y, x)[..., 0]
        best = torch.where(here > values, point, best)
        values = torch.maximum(values, here)
    output.copy_(values.unflatten(0, (-1, 4)).permute(0, 2, 3, 1))
    argmax_idx.copy_(best.unflatten(0, (-1, 4)).permute(0, 2, 3, 1))


def border_align_backward(
    grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor, *, pool_size: int
) -> None:
    """Add the gradient of :func:`border_align_forward` to ``grad_input``, (N, 4 * C, H, W)."""
    grad, boxes = widen(grad_output, boxes)
    starts, steps = (part[:, :, :, None] for part in _starts_and_steps(boxes, pool_size))
    # Every channel has its own points: (N * 4 * C, B, 1).
    y, x = (starts + argmax_idx.permute(0, 3, 1, 2) * steps).flatten(1, 3)[..., None]
    height, width = grad_input.shape[2:]
    grad = grad.permute(0, 3, 1, 2).flatten(0, 2)[:, None, :, None] * points_inside(y, x, height, width)[:, None]
    maps = torch.zeros((len(y), 1, height, width), dtype=wide_dtype(grad_input.dtype), device=grad_input.device)
    # The values of the maps only matter for the gradient of the points, which is not needed.
    grid = sampling_grid(y, x, height, width)
    by_map, _ = torch.ops.aten.grid_sampler_2d_backward(grad, maps, grid, _BILINEAR, _BORDER, False, [True, False])
    grad_input.add_(by_map.view(grad_input.shape))


OPERATORS: dict[str, Callable[..., None]] = {
    "border_align_backward": border_align_backward,
    "border_align_forward": border_align_forward,
}
