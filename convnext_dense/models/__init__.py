"""Backbones."""

from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.models.isotropic import IsotropicConvNeXt
from convnext_dense.models.roadmap import RoadmapNet
from convnext_dense.models.variants import ISOTROPIC_VARIANTS, VARIANTS, Variant

__all__ = ["ISOTROPIC_VARIANTS", "VARIANTS", "ConvNeXt", "IsotropicConvNeXt", "RoadmapNet", "Variant"]
