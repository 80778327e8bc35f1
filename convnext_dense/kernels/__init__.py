"""Fast implementations of the network's operators, each with a plain torch version to fall back on."""

from convnext_dense.kernels.choice import runs_on_triton
from convnext_dense.kernels.depthwise import depthwise_conv2d, depthwise_weight_grad
from convnext_dense.kernels.layer_norm import layer_norm
from convnext_dense.kernels.linear import linear

__all__ = ["depthwise_conv2d", "depthwise_weight_grad", "layer_norm", "linear", "runs_on_triton"]
