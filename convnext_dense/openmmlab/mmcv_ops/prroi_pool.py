"""Precise RoI pooling: the mean over a bin of the bilinearly interpolated map, as an integral.

Letters: N images, C channels, H and W size of the map; K RoIs; P and Q bins along y and x. A RoI is (image index, x1,
y1, x2, y2) in pixels of the image. The map is zero outside; border pixels fall to zero within one pixel.

The interpolated map is a sum of its pixels, each multiplied by a hat function along y and one along x, so the integral
over a bin is the sum of the pixels multiplied by the integrals of both hats.

Source: arXiv 1807.11590, equations 5 to 7, and
https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/prroi_pool_cuda_kernel.cuh
Differs: runs on the CPU too. The sum includes all pixels of a map, most of them with a weight of 0.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from convnext_dense.openmmlab.mmcv_ops.roi_samples import at_once


def _hat_integrals(start: Tensor, end: Tensor, num_bins: int, num_pixels: int) -> tuple[Tensor, Tensor]:
    """Return the integral of each pixel's hat over each bin, (K, bins, pixels), and the size of a bin, (K,)."""
    bin_size = (end - start).clamp(min=0) / num_bins
    edges = start[:, None] + torch.arange(num_bins + 1, device=start.device) * bin_size[:, None]
    # From -infinity to t, the hat 1 - |t| on [-1, 1] has the integral 1/2 + t - t |t| / 2.
    t = (edges[:, :, None] - torch.arange(num_pixels, device=start.device)).clamp(-1, 1)
    return (t - t * t.abs() / 2).diff(dim=1), bin_size


def _pool(maps: Tensor, rois: Tensor, pooled: tuple[int, int], spatial_scale: float) -> Tensor:
    """Return the mean over each bin, (K, C, P, Q), for RoIs on one map (C, H, W); differentiable in both."""
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale).unbind(dim=1)
    by_row, bin_height = _hat_integrals(y1, y2, pooled[0], maps.shape[1])
    by_column, bin_width = _hat_integrals(x1, x2, pooled[1], maps.shape[2])
    integrals = torch.einsum("kph,chw,kqw->kcpq", by_row, maps, by_column)
    area = (bin_height * bin_width)[:, None, None, None]
    return torch.where(area > 0, integrals / area.where(area > 0, 1), 0)


def _groups(maps: Tensor, rois: Tensor, pooled: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """Yield image and indices of RoIs on it, in groups of limited memory."""
    for image in range(len(maps)):
        here = (rois[:, 0] == image).nonzero()[:, 0]
        for some in here.split(at_once(pooled[0] * maps.shape[1] * maps.shape[3])):
            yield image, some


def prroi_pool_forward(
    features: Tensor, rois: Tensor, output: Tensor, *, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Write the mean of each bin into ``output``.

    Args:
        features: (N, C, H, W).
        rois: (K, 5).
        output: (K, C, P, Q), overwritten; 0 for a RoI without area.
        pooled_height: P.
        pooled_width: Q.
        spatial_scale: Feature map pixels per image pixel.
    """
    pooled = (pooled_height, pooled_width)
    for image, some in _groups(features, rois, pooled):
        output[some] = _pool(features[image], rois[some], pooled, spatial_scale)


def prroi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the features to ``grad_input``, (N, C, H, W)."""
    pooled = (pooled_height, pooled_width)
    for image, some in _groups(grad_input, rois, pooled):
        # The function is linear in the features, so their values do not matter.
        features = torch.zeros_like(grad_input[image], requires_grad=True)
        with torch.enable_grad():
            means = _pool(features, rois[some], pooled, spatial_scale)
        grad_input[image] += torch.autograd.grad(means, features, grad_output[some])[0]


def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    features: Tensor,
    rois: Tensor,
    grad_coor: Tensor,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the RoIs to ``grad_coor``, (K, 5)."""
    pooled = (pooled_height, pooled_width)
    for image, some in _groups(features, rois, pooled):
        corners = rois[some].detach().requires_grad_()
        with torch.enable_grad():
            means = _pool(features[image].detach(), corners, pooled, spatial_scale)
        grad_coor[some] += torch.autograd.grad(means, corners, grad_output[some])[0]


OPERATORS: dict[str, Callable[..., None]] = {
    "prroi_pool_backward": prroi_pool_backward,
    "prroi_pool_coor_backward": prroi_pool_coor_backward,
    "prroi_pool_forward": prroi_pool_forward,
}
