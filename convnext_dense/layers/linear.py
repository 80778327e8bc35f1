"""Linear layer whose output is scaled by scaling its weights."""

import torch
from torch import Tensor, nn

from convnext_dense.kernels import linear


class ScaledLinear(nn.Linear):
    """``nn.Linear`` whose output can be scaled per channel at the price of scaling its weights."""

    def forward(self, x: Tensor, scale: Tensor | None = None, *, fold: bool = False) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``, times ``scale`` of shape ``(out,)`` if there is one.

        ``scale * (W x + b) = (scale W) x + (scale b)``: the same function of the same parameters, without a pass over
        the output, forward or backward, and without keeping the output for the gradient of the scale. That is cheaper
        where there are more vectors than ``in``, which is where the output is larger than the weights; a compiled
        graph, which serves all sizes, always does it, and so does ``fold``.
        """
        if scale is None:
            return linear(x, self.weight, self.bias)
        if fold or torch.compiler.is_compiling() or x.numel() > self.in_features**2:
            return linear(x, scale[:, None] * self.weight, scale * self.bias)
        return scale * linear(x, self.weight, self.bias)
