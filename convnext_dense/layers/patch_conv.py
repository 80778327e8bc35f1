"""Convolution over non-overlapping patches, which is a linear layer on patches.

Letters: N images, C channels, H height, W width, P side of a patch.
"""

import torch
from torch import Tensor, nn

from convnext_dense.kernels.choice import needs_torchs_operators
from convnext_dense.kernels.linear import linear
from convnext_dense.kernels.precision import emulates_products, to_autocast


class PatchConv2d(nn.Conv2d):
    """``nn.Conv2d`` whose kernel is as large as its stride.

    In training on a CPU it runs as a linear layer on patches, because oneDNN's convolutions take up to twice the time
    for the gradients; for the forward pass alone the convolution is faster, unless its products would be emulated.
    Compiled, it runs as a linear layer too: Inductor guards on the size of a convolution's input gradient (torch
    2.14.1, ``convolution_backward_lowering``) and would recompile for every image size.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        patch_size: P.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, out_channels, H // P, W // P)``."""
        side = self.kernel_size[0]
        if torch.compiler.is_compiling():
            # (N, C, H // P, W // P, P, P); unlike a slice, `unfold` does not guard on whether P divides the size.
            patches = x_nchw.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 4, 5, 1)
            patches = patches.clone(memory_format=torch.contiguous_format).flatten(3)
            weight = self.weight.permute(0, 2, 3, 1).flatten(1)
            return nn.functional.linear(patches, weight, self.bias).permute(0, 3, 1, 2)
        if not self._is_faster_on_patches(x_nchw):
            return super().forward(x_nchw)
        height, width = (length // side * side for length in x_nchw.shape[2:])
        if (height, width) != x_nchw.shape[2:]:
            x_nchw = x_nchw[:, :, :height, :width]
        patches = nn.functional.pixel_unshuffle(x_nchw, side).permute(0, 2, 3, 1)
        return linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    def _is_faster_on_patches(self, x_nchw: Tensor) -> bool:
        if x_nchw.device.type != "cpu" or x_nchw.dim() != 4 or x_nchw.numel() == 0 or needs_torchs_operators():
            return False
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return True
        return emulates_products(*to_autocast("cpu", x_nchw[:0]))
