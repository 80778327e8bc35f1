"""Deformable RoI pooling: RoI align with a separate offset for each bin.

Letters: N images, C channels, H and W size of the map; K RoIs; P and Q bins along y and x; G and F points per bin
along y and x. A RoI is (image index, x1, y1, x2, y2) in pixels of the image.

Source: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/deform_roi_pool_cuda_kernel.cuh
(arXiv 1811.11168, equation 3)
Differs: runs on the CPU too. Half and bfloat16 inputs are computed in float32.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from convnext_dense.openmmlab.mmcv_ops.bilinear import sample, sample_slopes
from convnext_dense.openmmlab.mmcv_ops.precision import widen
from convnext_dense.openmmlab.mmcv_ops.roi_samples import groups_of_equal_size


def _groups(
    input: Tensor, rois: Tensor, pooled: tuple[int, int], spatial_scale: float, sampling_ratio: int
) -> Iterator[tuple[int, tuple[int, int], Tensor]]:
    """Yield image, (G, F) and the indices of RoIs with these sizes, in groups of limited memory."""
    height, width = pooled
    size = (rois[:, 3:] - rois[:, 1:3]) * spatial_scale
    points = torch.stack((size[:, 1] / height, size[:, 0] / width), dim=1).ceil().long()
    if sampling_ratio > 0:
        points = torch.full_like(points, sampling_ratio)
    for image in range(len(input)):
        here = (rois[:, 0] == image).nonzero()[:, 0]
        for along_y, along_x, some in groups_of_equal_size(points[here], height * width * input.shape[1]):
            yield image, (along_y, along_x), here[some]


def _points(
    rois: Tensor,
    offset: Tensor,
    points: tuple[int, int],
    pooled: tuple[int, int],
    *,
    spatial_scale: float,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    """Return the coordinates y and x of the points of every bin, each (K * P * Q, G * F)."""
    coordinates = []
    corners = rois[:, 1:].unflatten(1, (2, 2)) * spatial_scale - 0.5
    for axis in (1, 0):  # y, x
        start, end = corners[:, 0, axis, None, None], corners[:, 1, axis, None, None]
        number = torch.arange(pooled[1 - axis], device=rois.device)
        number = number[:, None] if axis == 1 else number[None, :]
        bin_size = (end - start) / pooled[1 - axis]
        moved = gamma * (end - start) * offset[:, axis] if offset.numel() else 0
        first = (start + moved + number * bin_size).expand(-1, *pooled)
        steps = torch.arange(points[1 - axis], device=rois.device) + 0.5
        coordinates.append(first[..., None] + steps * bin_size[..., None] / points[1 - axis])
    y = coordinates[0][..., :, None].expand(-1, -1, -1, *points)
    x = coordinates[1][..., None, :].expand(-1, -1, -1, *points)
    return y.flatten(3).flatten(0, 2), x.flatten(3).flatten(0, 2)


def _means(map_: Tensor, y: Tensor, x: Tensor, pooled: tuple[int, int]) -> Tensor:
    """Return the mean over the points of every bin, (K, C, P, Q), on one map (C, H, W); differentiable in the map."""
    means = sample(map_[None], y[None], x[None]).mean(dim=-1)
    return means.view(map_.shape[0], -1, *pooled).transpose(0, 1)


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    **scales: float,
) -> None:
    """Write the mean of each bin into ``output``.

    Args:
        input: (N, C, H, W).
        rois: (K, 5).
        offset: (K, 2, P, Q), x and y in units of ``gamma`` times the width and height of the RoI; empty for none.
        output: (K, C, P, Q), overwritten; 0 for a RoI without points.
        pooled_height: P.
        pooled_width: Q.
        sampling_ratio: G and F; 0 uses as many points as a bin has pixels, rounded up.
        scales: ``spatial_scale``, feature map pixels per image pixel, and ``gamma``.
    """
    input, rois, offset = widen(input, rois, offset)
    pooled = (pooled_height, pooled_width)
    output.zero_()
    for image, points, some in _groups(input, rois, pooled, scales["spatial_scale"], sampling_ratio):
        moved = offset[some] if offset.numel() else offset
        y, x = _points(rois[some], moved, points, pooled, **scales)
        output[some] = _means(input[image], y, x, pooled).to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    **scales: float,
) -> None:
    """Add the gradients of :func:`deform_roi_pool_forward` to ``grad_input`` and ``grad_offset``."""
    input, rois, offset, grad = widen(input, rois, offset, grad_output)
    pooled = (pooled_height, pooled_width)
    for image, points, some in _groups(input, rois, pooled, scales["spatial_scale"], sampling_ratio):
        map_ = input[image].detach().requires_grad_()
        moved = offset[some] if offset.numel() else offset
        y, x = _points(rois[some], moved, points, pooled, **scales)
        with torch.enable_grad():
            means = _means(map_, y, x, pooled)
        grad_input[image] += torch.autograd.grad(means, map_, grad[some])[0]
        if offset.numel():
            by_mean = grad[some].movedim(1, -1).flatten(0, 2)
            by_y, by_x = (slopes.mean(dim=-1) for slopes in sample_slopes(input[image], y, x, by_mean))
            by_place = torch.stack((by_x, by_y)).view(2, -1, *pooled).transpose(0, 1)
            size = (rois[some, 3:] - rois[some, 1:3]) * scales["spatial_scale"]  # width, height
            grad_offset[some] += (scales["gamma"] * size[:, :, None, None] * by_place).to(grad_offset.dtype)


OPERATORS: dict[str, Callable[..., Any]] = {
    "deform_roi_pool_backward": deform_roi_pool_backward,
    "deform_roi_pool_forward": deform_roi_pool_forward,
}
