"""Parts of the networks."""

from convnext_dense.layers.block import ConvNeXtBlock
from convnext_dense.layers.norm import GlobalResponseNorm, LayerNorm2d

__all__ = ["ConvNeXtBlock", "GlobalResponseNorm", "LayerNorm2d"]
