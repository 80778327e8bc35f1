"""Linear layer whose output is scaled by scaling its weights."""

import torch
from torch import Tensor, nn

from convnext_dense.kernels import linear


class ScaledLinear(nn.Linear):
    """``nn.Linear`` whose output can be scaled per channel at the cost of scaling its weights."""

    def forward(self, x: Tensor, scale: Tensor | None = None, *, fold: bool = False) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``, multiplied by ``scale`` of shape ``(out,)`` if it is given.

        ``scale * (W x + b) = (scale W) x + (scale b)`` is the same function of the same parameters. Scaling the weights
        needs no pass over the output, forward or backward, and does not keep the output for the gradient of the scale.
        This is cheaper for more than ``in`` vectors, where the output is larger than the weights. A compiled graph,
        which serves all sizes, always scales the weights, and so does ``fold``.
        """
        if scale is None:
            return linear(x, self.weight, self.bias)
        if fold or torch.compiler.is_compiling() or x.numel() > self.in_features**2:
            return linear(x, scale[:, None] * self.weight, scale * self.bias)
        return scale * linear(x, self.weight, self.bias)
