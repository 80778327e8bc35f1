"""Values of feature maps between their pixels, as mmcv's operators read them.

Source: ``bilinear_interpolate`` in
https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/common_cuda_helper.hpp
"""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def points_inside(y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """Return which points count: up to one pixel outside the map the border pixel does, nothing beyond."""
    return (y >= -1) & (y <= height) & (x >= -1) & (x <= width)


def sampling_grid(y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """Return points (N, A, B), in pixels, as grid_sample wants them for ``border`` padding: (N, A, B, 2)."""
    return torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)


def sample(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return the values (N, C, A, B) of ``maps`` (N, C, H, W) at the points with coordinates y and x, (N, A, B)."""
    height, width = maps.shape[2:]
    values = grid_sample(maps, sampling_grid(y, x, height, width), padding_mode="border", align_corners=False)
    return values * points_inside(y, x, height, width)[:, None]
