"""Layers that the networks are built from."""

from timm.layers import DropPath

from convnext_dense.layers.block import ConvNeXtBlock
from convnext_dense.layers.norm import GlobalResponseNorm, LayerNorm, LayerNorm2d
from convnext_dense.layers.patch_conv import PatchConv2d

__all__ = ["ConvNeXtBlock", "DropPath", "GlobalResponseNorm", "LayerNorm", "LayerNorm2d", "PatchConv2d"]
