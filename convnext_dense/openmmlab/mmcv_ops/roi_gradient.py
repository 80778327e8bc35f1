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

_ELEMENTS_AT_ONCE = 1 << 22  # of the matrix: 80 MB with its indices while it is sorted


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
    num_bins = grad.shape[2] * grad.shape[3]
    total = grad.new_zeros(images * height * width, channels)
    some = max(_ELEMENTS_AT_ONCE // max(num_bins * (2 * sampling_ratio) ** 2, 1), 1)
    for part, boxes in zip(grad.split(some), rois.split(some), strict=True):
        if len(boxes):
            first, last = (boxes[:, corner] * spatial_scale - (0.5 if aligned else 0.0) for corner in ([1, 2], [3, 4]))
            extent = last - first if aligned else (last - first).clamp(min=1)
            y, y_weights = _pixels_of_bins(first[:, 1], extent[:, 1], part.shape[2], height, sampling_ratio)
            x, x_weights = _pixels_of_bins(first[:, 0], extent[:, 0], part.shape[3], width, sampling_ratio)
            y = y + (boxes[:, 0].long() * height)[:, None, None]
            pixels = y[:, :, None, :, None] * width + x[:, None, :, None, :]  # (K, P, Q, 2 S, 2 S)
            weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
            matrix = _sparse(pixels.flatten(), weights.flatten(), len(total), len(boxes) * num_bins)
            total += matrix @ part.permute(0, 2, 3, 1).reshape(-1, channels)
    return total.view(images, height, width, channels).permute(0, 3, 1, 2)


def _pixels_of_bins(
    start: Tensor, length: Tensor, num_bins: int, size: int, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    """Return the pixels along one axis that the samples of every bin are interpolated from, and their weights.

    Args:
        start: (K,), where RoIs begin on the map.
        length: (K,), of the RoIs.
        num_bins: P or Q.
        size: H or W.
        sampling_ratio: S.

    Returns:
        Both (K, P or Q, 2 S); weights are 0 for samples more than a pixel outside the map.
    """
    steps = torch.arange(num_bins * sampling_ratio, dtype=start.dtype, device=start.device) + 0.5
    samples = start[:, None] + steps * (length / (num_bins * sampling_ratio))[:, None]
    is_inside = (samples >= -1) & (samples <= size)
    samples = samples.clamp(0, size - 1)
    before = samples.floor()
    share = samples - before
    pixels = torch.stack([before, (before + 1).clamp(max=size - 1)], dim=-1).long()
    weights = torch.stack([1 - share, share], dim=-1) * (is_inside / sampling_ratio)[..., None]
    return pixels.view(len(start), num_bins, -1), weights.view(len(start), num_bins, -1)


def _sparse(rows: Tensor, values: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return a matrix in CSR layout; the values of a column follow each other, as many for each."""
    order = rows.argsort()
    begins = rows.new_zeros(num_rows + 1)
    begins[1:] = rows.bincount(minlength=num_rows).cumsum(0)
    columns = order // (len(rows) // num_columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is a beta of torch
        return torch.sparse_csr_tensor(begins, columns, values[order], (num_rows, num_columns), check_invariants=False)
