"""Where RoIs are sampled: their corners, bins, points in these, and the pixels around a point.

Letters: K RoIs; P and Q bins along y and x. A RoI is (image index, x1, y1, x2, y2) in pixels of the image.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Size limit of temporary tensors in this package's own functions (64 MiB in float32), unless one RoI needs more.
_ELEMENTS_AT_ONCE = 1 << 24


def at_once(elements_per_roi: int) -> int:
    """Return how many RoIs to process at once."""
    return max(1, _ELEMENTS_AT_ONCE // max(1, elements_per_roi))


def corners(rois: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and last corner of ``rois`` (K, 5), each (K, 2) in the order y, x."""
    first, last = rois[:, 1:].unflatten(1, (2, 2)).flip(2).unbind(1)
    return first, last


def map_bins(rois: Tensor, bins: tuple[int, int], *, spatial_scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """Return where RoIs begin on the map and the size of their bins, both (K, 2) in the order y, x.

    Args:
        rois: (K, 5).
        bins: P and Q.
        spatial_scale: Feature map pixels per image pixel.
        aligned: Whether pixel centres lie at half coordinates; if not, a RoI is at least one pixel wide.
    """
    start, end = (corner * spatial_scale - (0.5 if aligned else 0.0) for corner in corners(rois))
    size = end - start if aligned else (end - start).clamp(min=1)
    return start, torch.stack((size[:, 0] / bins[0], size[:, 1] / bins[1]), dim=1)


def groups_of_equal_size(sizes: Tensor, elements_per_point: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield height, width and the indices of RoIs whose bins have this many points, in groups of limited memory.

    RoIs without points are skipped. The sizes determine tensor shapes, so the host has to wait for them here.

    Args:
        sizes: (K, 2), points of a bin along y and x.
        elements_per_point: Elements of a temporary tensor per RoI and point in a bin.
    """
    unique, group, counts = torch.unique(sizes, dim=0, return_inverse=True, return_counts=True)
    for (height, width), rois in zip(unique.tolist(), group.argsort().split(counts.tolist()), strict=True):
        if height > 0 and width > 0:
            for some in rois.split(at_once(height * width * elements_per_point)):
                yield height, width, some


def sampling_positions(start: Tensor, bin_size: Tensor, num_bins: int, num_points: int) -> Tensor:
    """Return coordinates (K, num_bins, num_points) along one axis for RoIs that start at ``start`` (K,)."""
    bins, points = torch.arange(num_bins, device=start.device), torch.arange(num_points, device=start.device)
    bin_start = start[:, None] + bins * bin_size[:, None]
    return bin_start[:, :, None] + ((points + 0.5) * bin_size[:, None] / num_points)[:, None]


def neighbours(position: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return index and weight of the lower and the upper neighbour of ``position`` along an axis of ``size`` pixels.

    Up to one pixel outside the map the border pixel counts; beyond that, both weights are zero.
    """
    inside = (position >= -1) & (position <= size)
    # Positions outside may be NaN, which clamp would keep and which is not a valid index.
    position = torch.where(inside, position, torch.zeros_like(position)).clamp(0, size - 1)
    lower = position.long()
    fraction = position - lower
    return (lower, (1 - fraction) * inside), ((lower + 1).clamp(max=size - 1), fraction * inside)
