"""Multi-scale deformable attention.

Letters: N images, M heads, D channels per head, Q queries, L levels, P points; level l has the size
H_l x W_l, and the levels are concatenated to S = sum of H_l * W_l positions.

Source: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/ms_deform_attn_cuda_kernel.cuh

Differs: runs on the CPU too, including bfloat16. Half and bfloat16 inputs are computed in float32. The host waits for
the level sizes, which mmcv's module compares on the host before the call anyway. ``im2col_step`` is ignored: one level
at a time is in memory. A point that is not finite gives NaN, as in mmcv's own version for the CPU; the kernel skips it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from convnext_dense.openmmlab.mmcv_ops.precision import widen

_BILINEAR, _ZEROS = 0, 0  # grid_sample's modes, as torch's own operators number them
_OUTSIDE = -3  # a coordinate far from all pixels


def _levels(value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield each level's slice of S and its values as feature maps (N * M, D, H_l, W_l)."""
    for height, width, start in torch.column_stack((spatial_shapes, level_start_index)).tolist():
        place = slice(start, start + height * width)
        yield place, value[:, place].permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))


def _grid(sampling_locations: Tensor, level: int) -> Tensor:
    """Return one level's points as a grid for grid_sample, (N * M, Q, P, 2) in [-1, 1]."""
    return (2 * sampling_locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)


def _grid_for_slopes(sampling_locations: Tensor, level: int, spatial_shapes: Tensor) -> Tensor:
    """Return the grid of :func:`_grid` with each point strictly between the four pixels that mmcv's kernel uses.

    The slope at a point on a pixel is the one towards the next pixel, and there is none at or beyond -1, H_l and W_l.
    Converting to a grid and back rounds by up to 0.75 of the margin; without the margin, such a point could get another
    slope.
    """
    points = sampling_locations[:, :, :, level].transpose(1, 2).flatten(0, 1)
    size = spatial_shapes[level].flip(0).to(points)
    points = points * size - 0.5
    margin = (size + 1) * torch.finfo(points.dtype).eps
    pixel = points.floor()
    between = pixel + torch.minimum(torch.maximum(points - pixel, margin), 1 - margin)
    outside = (points <= -1) | (points >= size)
    return (2 * between.masked_fill(outside, _OUTSIDE) + 1) / size - 1


def _weights(attention_weights: Tensor, level: int) -> Tensor:
    """Return one level's weights, (N * M, 1, Q, P)."""
    return attention_weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return the weighted sum over levels and points, (N, Q, M * D).

    Args:
        value: (N, S, M, D).
        value_spatial_shapes: (L, 2), H_l and W_l.
        value_level_start_index: (L,), the start of each level in S.
        sampling_locations: (N, Q, M, L, P, 2), x and y as fractions of the width and height.
        attention_weights: (N, Q, M, L, P).
        im2col_step: Ignored.
    """
    images, _, heads, channels = value.shape
    wide, locations, weights = widen(value, sampling_locations, attention_weights)
    total = wide.new_zeros((images * heads, channels, sampling_locations.shape[1]))
    for level, (_, maps) in enumerate(_levels(wide, value_spatial_shapes, value_level_start_index)):
        sampled = grid_sample(maps, _grid(locations, level), align_corners=False)
        total += (sampled * _weights(weights, level)).sum(dim=-1)
    return total.view(images, heads * channels, -1).transpose(1, 2).contiguous().to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the gradient of :func:`ms_deform_attn_forward` to the three ``grad_`` tensors of its inputs.

    Each has the shape of its input. The other arguments are those of the forward function;
    ``grad_output`` is (N, Q, M * D).
    """
    images, _, heads, channels = value.shape
    wide, locations, weights, grad = widen(value, sampling_locations, attention_weights, grad_output)
    grad = grad.transpose(1, 2).reshape(images * heads, channels, -1, 1)
    for level, (place, maps) in enumerate(_levels(wide, value_spatial_shapes, value_level_start_index)):
        grid = _grid_for_slopes(locations, level, value_spatial_shapes)
        sampled = grid_sample(maps, grid, align_corners=False)
        by_weight = (sampled * grad).sum(dim=1)
        by_map, by_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad * _weights(weights, level), maps, grid, _BILINEAR, _ZEROS, False, [True, True]
        )
        by_map = by_map.unflatten(0, (images, heads)).flatten(3)
        grad_value[:, place].add_(by_map.permute(0, 3, 1, 2))
        # The grid is 2 * location - 1.
        grad_sampling_loc[:, :, :, level].add_(by_grid.unflatten(0, (images, heads)).transpose(1, 2), alpha=2)
        grad_attn_weight[:, :, :, level].add_(by_weight.unflatten(0, (images, heads)).transpose(1, 2))


OPERATORS = {"ms_deform_attn_backward": ms_deform_attn_backward, "ms_deform_attn_forward": ms_deform_attn_forward}
