"""Depthwise convolution as a module."""

from torch import Tensor, nn

from convnext_dense.kernels import depthwise_conv2d


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one filter per channel, stride 1 and the input's height and width, trained faster on a CPU.

    Args:
        channels: C.
        kernel_size: K, odd.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape; the fast path's result is channels-last."""
        return depthwise_conv2d(x_nchw, self.weight, self.bias)
