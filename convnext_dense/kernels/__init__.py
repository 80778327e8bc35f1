"""Fast paths of the network's parts; each has a plain torch reference that it falls back to."""

from convnext_dense.kernels.depthwise import DepthwiseConv2d, depthwise_conv2d, depthwise_weight_grad
from convnext_dense.kernels.linear import ScaledLinear

__all__ = ["DepthwiseConv2d", "ScaledLinear", "depthwise_conv2d", "depthwise_weight_grad"]
