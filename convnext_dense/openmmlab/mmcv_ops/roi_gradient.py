"""The gradient of RoI align's average mode on a CPU, as a product of a sparse matrix and the gradient's bins.

torchvision's function adds every sample of every channel to a map in NCHW, one number at a time. Here a row of the
matrix is a pixel, a column is a bin, and the channels of a bin lie side by side.

Letters: N images, C channels, H and W size of the feature map; K RoIs; P and Q bins along y and x; S samples per bin
and axis. A RoI is (image index, x1, y1, x2, y2) in pixels of the image.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from convnext_dense.openmmlab.mmcv_ops.roi_samples import at_once, map_bins, neighbours, sampling_positions


def can_use(grad: Tensor, sampling_ratio: int) -> bool:
    """Return whether ``roi_align_gradient`` is for a gradient: on a CPU with MKL, of a fixed number of samples."""
    is_wide = grad.dtype in (torch.float32, torch.float64)
    return grad.device.type == "cpu" and is_wide and sampling_ratio > 0 and torch.backends.mkl.is_available()


def roi_align_gradient(
    grad: Tensor,
    rois: Tensor,
    map_size: Sequence[int],
    *,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Return the gradient of the feature map, (N, C, H, W).

    Args:
        grad: Gradient of the pooled RoIs, (K, C, P, Q).
        rois: (K, 5).
        map_size: N, C, H, W.
        spatial_scale: Feature map pixels per image pixel.
        sampling_ratio: S, at least 1.
        aligned: Whether pixel centres lie at half coordinates; if not, a RoI is at least one pixel wide.
    """
    images, channels, height, width = map_size
    bins = (grad.shape[2], grad.shape[3])
    num_bins, per_bin = bins[0] * bins[1], (2 * sampling_ratio) ** 2
    total = grad.new_zeros(images * height * width, channels)
    # An entry of the matrix takes 32 bytes while it is sorted.
    some = at_once(8 * num_bins * per_bin)
    for part, boxes in zip(grad.split(some), rois.split(some), strict=True):
        if len(boxes):
            start, bin_size = map_bins(boxes, bins, spatial_scale=spatial_scale, aligned=aligned)
            y, y_weights = _pixels_of_bins(start[:, 0], bin_size[:, 0], bins[0], height, sampling_ratio)
            x, x_weights = _pixels_of_bins(start[:, 1], bin_size[:, 1], bins[1], width, sampling_ratio)
            y = y + (boxes[:, 0].long() * height)[:, None, None]
            pixels = y[:, :, None, :, None] * width + x[:, None, :, None, :]  # (K, P, Q, 2 S, 2 S)
            weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
            matrix = _sparse(pixels.flatten(), weights.flatten(), len(total), len(boxes) * num_bins)
            total += matrix @ part.permute(0, 2, 3, 1).reshape(-1, channels)
    return total.view(images, height, width, channels).permute(0, 3, 1, 2)


def _pixels_of_bins(
    start: Tensor, bin_size: Tensor, num_bins: int, size: int, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    """Return the pixels along one axis that the samples of every bin are interpolated from, and their weights.

    Args:
        start: (K,), where RoIs begin on the map.
        bin_size: (K,), of their bins.
        num_bins: P or Q.
        size: H or W.
        sampling_ratio: S.

    Returns:
        Both (K, P or Q, 2 S); weights are 0 for samples more than a pixel outside the map.
    """
    points = sampling_positions(start, bin_size, num_bins, sampling_ratio)
    (before, before_share), (after, after_share) = neighbours(points, size)
    return torch.cat([before, after], dim=-1), torch.cat([before_share, after_share], dim=-1) / sampling_ratio


def _sparse(rows: Tensor, values: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return a matrix in CSR layout; the values of a column follow each other, as many for each."""
    order = rows.argsort()
    begins = rows.new_zeros(num_rows + 1)
    begins[1:] = rows.bincount(minlength=num_rows).cumsum(0)
    columns = order // (len(rows) // num_columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is a beta of torch
        return torch.sparse_csr_tensor(begins, columns, values[order], (num_rows, num_columns), check_invariants=False)
