"""Depthwise convolution as a module."""

from torch import Tensor, nn

from convnext_dense.kernels import depthwise_conv2d


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one filter per channel that keeps height and width and trains faster on a CPU; stride 1.

    Args:
        channels: C.
        kernel_size: K, odd.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape; the fast path returns a channels-last tensor."""
        return depthwise_conv2d(x_nchw, self.weight, self.bias)
