"""Feature maps of which only some patches are seen.

Letters: N images, C channels, H and W size of a map; h and w number of patches along its height and width, P side of a
patch in positions; V visible patches per image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VisiblePatches:
    """Where the visible patches of a batch are.

    Their contents are a strip per image, ``(N, C, V * P, P)``: an image of its own that has them below each other.
    Layers that never look beyond a patch, such as patch convolutions and norms, run on a strip as on a map, and a sum
    over all positions of a strip is one over the visible positions.

    Args:
        mask: ``(N, h, w)`` of booleans, True where a patch is hidden, at V places of each image it is False.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = mask.shape
        self.image, self.row, self.column = (~mask).nonzero(as_tuple=True)  # image by image, row by row

    def take(self, x_nchw: Tensor) -> Tensor:
        """Copy the visible patches of a map ``(N, C, h * P, w * P)`` to a strip ``(N, C, V * P, P)``."""
        num_images, rows, columns = self.shape
        patches = x_nchw.permute(0, 2, 3, 1).unflatten(2, (columns, -1)).unflatten(1, (rows, -1))
        visible = patches[self.image, self.row, :, self.column]  # (N * V, P, P, C)
        return visible.reshape(num_images, -1, *visible.shape[2:]).permute(0, 3, 1, 2)

    def put(self, strip_nchw: Tensor) -> Tensor:
        """Copy a strip ``(N, C, V * P, P)`` to a map ``(N, C, h * P, w * P)`` that is zero where it is hidden."""
        num_images, rows, columns = self.shape
        side, channels = strip_nchw.shape[3], strip_nchw.shape[1]
        patches = strip_nchw.new_zeros(num_images, rows, side, columns, side, channels)
        visible = strip_nchw.permute(0, 2, 3, 1).reshape(-1, side, side, channels)
        patches[self.image, self.row, :, self.column] = visible
        return patches.view(num_images, rows * side, columns * side, channels).permute(0, 3, 1, 2)

    def convolve(self, layer: nn.Module, strip_nchw: Tensor) -> Tensor:
        """Apply a layer that keeps the size of maps to a strip: hidden neighbours count as zeros."""
        return self.take(layer(self.put(strip_nchw)))


def random_masks(size: tuple[int, int, int], ratio: float, seeds: Sequence[int] | None = None) -> Tensor:
    """Hide random patches: as many in each image, ``ratio`` of them rounded up, ``(N, h, w)`` of booleans on the CPU.

    Args:
        size: N, h and w.
        ratio: In [0, 1).
        seeds: One per image, which decides its mask; by default torch's generator does.
    """
    num_images, rows, columns = size
    num_visible = int(rows * columns * (1 - ratio))
    if seeds is None:
        noise = torch.rand(num_images, rows * columns)
    else:
        generator = torch.Generator()
        noise = torch.stack([torch.rand(rows * columns, generator=generator.manual_seed(seed)) for seed in seeds])
    return (noise.argsort(dim=1).argsort(dim=1) >= num_visible).view(size)
