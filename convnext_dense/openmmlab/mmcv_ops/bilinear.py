"""Bilinear interpolation of feature maps by the rules of mmcv's operators.

Source: ``bilinear_interpolate`` in
https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/common_cuda_helper.hpp, and for the slopes
deform_roi_pool_cuda_kernel.cuh beside it
"""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def points_inside(y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """Return which points count: points up to one pixel outside the map read the border pixel, others count as zero."""
    return (y >= -1) & (y <= height) & (x >= -1) & (x <= width)


def sampling_grid(y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """Convert points (N, A, B), in pixels, to a grid (N, A, B, 2) for grid_sample with ``border`` padding."""
    return torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)


def sample(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the values (N, C, A, B) of ``maps`` (N, C, H, W) at the points with coordinates y and x, (N, A, B)."""
    height, width = maps.shape[2:]
    values = grid_sample(maps, sampling_grid(y, x, height, width), padding_mode="border", align_corners=False)
    return values * points_inside(y, x, height, width)[:, None]


def _pixels_around(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the pixels before and after ``position``, limited to the first and last pixel."""
    before = position.clamp(0, size - 1).long()
    return before, (before + 1).clamp(max=size - 1)


def sample_slopes(map_: Tensor, y: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of y and x, given the gradient of the values of one map at these points.

    The gradients are mmcv's, which differ from the derivatives beyond the pixels: before the first pixel the slope of
    the nearest four pixels continues although the value does not; from the last pixel on there is no slope at all, not
    even along the border.

    Args:
        map_: (C, H, W).
        y: (A, B), in pixels.
        x: (A, B), in pixels.
        grad: (A, C), the same for all B points of a row.
    """
    height, width = map_.shape[1:]
    inside = points_inside(y, x, height, width)
    y, x = (torch.where(inside, position, 0) for position in (y, x))
    (top, bottom), (left, right) = _pixels_around(y, height), _pixels_around(x, width)
    pixels = map_.flatten(1).T.contiguous()

    def weighted(row: Tensor, column: Tensor) -> Tensor:
        return (pixels[row * width + column] @ grad[:, :, None])[:, :, 0]

    top_left, top_right = weighted(top, left), weighted(top, right)
    bottom_left, bottom_right = weighted(bottom, left), weighted(bottom, right)
    by_y = (right - x) * (bottom_left - top_left) + (x - left) * (bottom_right - top_right)
    by_x = (bottom - y) * (top_right - top_left) + (y - top) * (bottom_right - bottom_left)
    return by_y * inside, by_x * inside
