"""Convolution over patches that do not overlap, which is a linear layer on patches.

Letters: N images, C channels, H height, W width, P side of a patch.
"""

import torch
from torch import Tensor, nn


class PatchConv2d(nn.Conv2d):
    """``nn.Conv2d`` whose kernel is as large as its stride.

    Compiled, it is a linear layer on patches: Inductor guards on the size of the input's gradient of a convolution
    (torch 2.14.1, ``convolution_backward_lowering``) and would compile again for every size of an image.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        patch_size: P.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to ``(N, out_channels, H // P, W // P)``."""
        if not torch.compiler.is_compiling():
            return super().forward(x_nchw)
        side = self.kernel_size[0]
        # (N, C, H // P, W // P, P, P); unlike a slice, `unfold` says nothing about whether P divides the size.
        patches = x_nchw.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 4, 5, 1)
        patches = patches.clone(memory_format=torch.contiguous_format).flatten(3)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return nn.functional.linear(patches, weight, self.bias).permute(0, 3, 1, 2)
