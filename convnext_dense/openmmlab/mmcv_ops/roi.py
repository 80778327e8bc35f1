"""RoI align and RoI pool.

Letters: N images, C channels, H and W size of the feature map; K RoIs; P and Q bins along y and x; G and F points per
bin along y and x. A RoI is (image index, x1, y1, x2, y2) in pixels of the image; ``spatial_scale`` converts them to
pixels of the feature map.

Source: https://github.com/open-mmlab/mmcv/tree/v2.1.0/mmcv/ops/csrc/common/cuda (roi_align_cuda_kernel.cuh,
roi_pool_cuda_kernel.cuh). RoI align's average mode and RoI pool's gradient are the same functions in torchvision, which
is used for them, but for most gradients of RoI align on a CPU (``roi_gradient.py``). It has no maximum mode, and its
RoI pool rounds the RoI to whole pixels, unlike mmcv's.

Differs: half and bfloat16 inputs are computed in float32. In maximum mode a RoI without sampling points gives 0, as in
average mode (mmcv: -10000 on the CPU, -FLT_MAX on CUDA), and RoI pool passes no gradient through a RoI of negative
size (mmcv: to the first pixel). Such RoIs are accepted on the CPU as they are on CUDA.
"""

from collections.abc import Iterator

import torch
import torchvision  # noqa: F401 (registers torch.ops.torchvision)
from torch import Tensor

from convnext_dense.openmmlab.mmcv_ops import roi_gradient
from convnext_dense.openmmlab.mmcv_ops.precision import wide_dtype, widen
from convnext_dense.openmmlab.mmcv_ops.roi_samples import (
    at_once,
    corners,
    groups_of_equal_size,
    map_bins,
    neighbours,
    sampling_positions,
)

_MAX = 0  # roi_align's `pool_mode`, as mmcv/ops/roi_align.py numbers it


def _pixels(input: Tensor) -> Tensor:
    """Return ``input`` (N, C, H, W) as a table of pixels (N * H * W, C)."""
    return input.permute(0, 2, 3, 1).reshape(-1, input.shape[1])


def _max_of_bins(values: Tensor, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """Return the maximum of each bin and where it first occurs, row by row: two tensors (K, C, P, Q).

    Args:
        values: (K, P * G, Q * F, C), the points of all bins.
        num_rows: P.
        num_columns: Q.
    """
    values = values.unflatten(2, (num_columns, -1)).unflatten(1, (num_rows, -1))
    maxima, places = values.permute(0, 5, 1, 3, 2, 4).flatten(4).max(dim=-1)
    return maxima, places


def _coordinates(y: Tensor, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Select from the coordinates y (K, P, G) and x (K, Q, F) those of the points at ``places``, each (K, C, P, Q)."""
    rows, columns = (places // x.shape[2])[..., None], (places % x.shape[2])[..., None]
    y, x = y[:, None, :, None], x[:, None, None]
    return (
        y.expand(*places.shape, -1).gather(-1, rows).squeeze(-1),
        x.expand(*places.shape, -1).gather(-1, columns).squeeze(-1),
    )


def _interpolate(pixels: Tensor, image_index: Tensor, y: Tensor, x: Tensor, size: torch.Size) -> Tensor:
    """Return values (K, P * G, Q * F, C) at the points with coordinates y (K, P, G) and x (K, Q, F).

    Args:
        pixels: (N * H * W, C).
        image_index: (K, 1, 1).
        y: Coordinates of the rows.
        x: Coordinates of the columns.
        size: H and W.
    """
    height, width = size
    values = []
    for row, row_weight in neighbours(y.flatten(1)[:, :, None], height):
        for column, column_weight in neighbours(x.flatten(1)[:, None], width):
            index = (image_index * height + row) * width + column
            values.append((row_weight * column_weight)[..., None] * pixels[index])
    return values[0] + values[1] + values[2] + values[3]


def _max_align(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> None:
    """RoI align in maximum mode; see :func:`roi_align_forward`."""
    channels, num_rows, num_columns = output.shape[1:]
    start, bin_size = map_bins(rois, (num_rows, num_columns), spatial_scale=spatial_scale, aligned=aligned)

    groups: Iterator[tuple[int, int, Tensor]]
    elements_per_point = num_rows * num_columns * channels
    if sampling_ratio > 0:
        order = torch.arange(len(rois), device=rois.device)
        chunks = order.split(at_once(sampling_ratio**2 * elements_per_point))
        groups = ((sampling_ratio, sampling_ratio, some) for some in chunks)
    else:
        groups = groups_of_equal_size(bin_size.ceil().long(), elements_per_point)

    output.zero_()
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    pixels, image_index = _pixels(input), rois[:, 0].long()[:, None, None]
    for height, width, some in groups:
        y = sampling_positions(start[some, 0], bin_size[some, 0], num_rows, height)
        x = sampling_positions(start[some, 1], bin_size[some, 1], num_columns, width)
        values = _interpolate(pixels, image_index[some], y, x, input.shape[2:])
        maxima, places = _max_of_bins(values, num_rows, num_columns)
        best_y, best_x = _coordinates(y, x, places)
        output[some] = maxima.to(output.dtype)
        argmax_y[some] = best_y.to(argmax_y.dtype)
        argmax_x[some] = best_x.to(argmax_x.dtype)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool each bin of each RoI from bilinearly interpolated points.

    Args:
        input: (N, C, H, W).
        rois: (K, 5).
        output: (K, C, P, Q), overwritten.
        argmax_y: In maximum mode (K, C, P, Q), overwritten with the coordinate of the chosen point, -1 for none.
        argmax_x: Likewise.
        aligned_height: P.
        aligned_width: Q.
        spatial_scale: Feature map pixels per image pixel.
        sampling_ratio: G and F; 0 uses as many points as a bin has pixels, rounded up.
        pool_mode: 0 maximum, 1 average.
        aligned: Whether pixel centres lie at half coordinates; if not, a RoI is at least one pixel wide.
    """
    input, rois = widen(input, rois)
    if pool_mode == _MAX:
        _max_align(
            input,
            rois,
            output,
            argmax_y,
            argmax_x,
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )
        return
    output.copy_(
        torch.ops.torchvision.roi_align(
            input, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    )


def _max_align_backward(
    grad_output: Tensor, image_index: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor
) -> None:
    """Add the gradient of :func:`_max_align` to ``grad_input`` (N, C, H, W), which is contiguous."""
    _, channels, height, width = grad_input.shape
    plane = image_index[:, None] * channels + torch.arange(channels, device=image_index.device)
    chunk = at_once(grad_output[:1].numel())
    tensors = (grad_output, plane[:, :, None, None], argmax_y, argmax_x)
    for grad, some_planes, y, x in zip(*(tensor.split(chunk) for tensor in tensors), strict=True):
        grad = torch.where(y == -1, torch.zeros_like(grad), grad)
        for row, row_weight in neighbours(y, height):
            for column, column_weight in neighbours(x, width):
                index = (some_planes * height + row) * width + column
                share = grad * (row_weight * column_weight)
                grad_input.view(-1).scatter_add_(0, index.flatten(), share.flatten())


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input`` (N, C, H, W).

    The other arguments are those of the forward function; ``grad_output`` is (K, C, P, Q).
    """
    grad_output, rois, argmax_y, argmax_x = widen(grad_output, rois, argmax_y, argmax_x)
    if pool_mode == _MAX:
        total = torch.zeros(grad_input.shape, dtype=wide_dtype(grad_input.dtype), device=grad_input.device)
        _max_align_backward(grad_output, rois[:, 0].long(), argmax_y, argmax_x, total)
    elif roi_gradient.can_use(grad_output, sampling_ratio):
        total = roi_gradient.roi_align_gradient(
            grad_output,
            rois,
            grad_input.shape,
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )
    else:
        total = torch.ops.torchvision._roi_align_backward(
            grad_output, rois, spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned
        )
    grad_input.add_(total)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Pool each bin of each RoI by the maximum over the pixels that it touches.

    Args:
        input: (N, C, H, W).
        rois: (K, 5).
        output: (K, C, P, Q), overwritten; 0 for a bin without pixels.
        argmax: (K, C, P, Q) int, overwritten with y * W + x of the chosen pixel, -1 for none.
        pooled_height: P.
        pooled_width: Q.
        spatial_scale: Feature map pixels per image pixel.
    """
    input, rois = widen(input, rois)
    height, width = input.shape[2:]
    first, last = corners(rois)
    start = first * spatial_scale
    roi_size = (last + 1) * spatial_scale - start

    first_pixel, end_pixel = [], []  # along y (K, P) and x (K, Q)
    for axis, (num_bins, num_pixels) in enumerate(((pooled_height, height), (pooled_width, width))):
        bins, bin_size = torch.arange(num_bins, device=rois.device), roi_size[:, axis, None] / num_bins
        first_pixel.append((bins * bin_size + start[:, axis, None]).floor().long().clamp(0, num_pixels))
        end_pixel.append(((bins + 1) * bin_size + start[:, axis, None]).ceil().long().clamp(0, num_pixels))
    counts = torch.stack([(end - begin).amax(1) for begin, end in zip(first_pixel, end_pixel, strict=True)], dim=1)
    counts = counts * (roi_size > 0).all(dim=1, keepdim=True)

    output.zero_()
    argmax.fill_(-1)
    pixels, image_index = _pixels(input), rois[:, 0].long()[:, None, None]
    elements_per_point = pooled_height * pooled_width * input.shape[1]
    for bin_height, bin_width, some in groups_of_equal_size(counts, elements_per_point):
        y = first_pixel[0][some][..., None] + torch.arange(bin_height, device=rois.device)
        x = first_pixel[1][some][..., None] + torch.arange(bin_width, device=rois.device)
        inside_y = (y < end_pixel[0][some][..., None]).flatten(1)[:, :, None]
        inside_x = (x < end_pixel[1][some][..., None]).flatten(1)[:, None]
        row, column = y.clamp(max=height - 1).flatten(1)[:, :, None], x.clamp(max=width - 1).flatten(1)[:, None]
        values = pixels[(image_index[some] * height + row) * width + column]
        values = values.masked_fill(~(inside_y & inside_x)[..., None], -torch.inf)
        maxima, places = _max_of_bins(values, pooled_height, pooled_width)
        best_y, best_x = _coordinates(y, x, places)
        empty = maxima == -torch.inf
        output[some] = maxima.masked_fill(empty, 0).to(output.dtype)
        argmax[some] = (best_y * width + best_x).masked_fill(empty, -1).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of :func:`roi_pool_forward` to ``grad_input`` (N, C, H, W).

    The other arguments are those of the forward function; ``grad_output`` is (K, C, P, Q).
    """
    grad_output, rois = widen(grad_output, rois)
    grad_input.add_(
        torch.ops.torchvision._roi_pool_backward(
            grad_output, rois, argmax, spatial_scale, pooled_height, pooled_width, *grad_input.shape
        )
    )


OPERATORS = {
    "roi_align_backward": roi_align_backward,
    "roi_align_forward": roi_align_forward,
    "roi_pool_backward": roi_pool_backward,
    "roi_pool_forward": roi_pool_forward,
}
