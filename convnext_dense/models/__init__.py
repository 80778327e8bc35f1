"""Backbones."""

from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.models.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "ConvNeXt", "Variant"]
