"""Backbones, and the image classifier for pre-training them."""

from convnext_dense.checkpoints.variants import ISOTROPIC_VARIANTS, VARIANTS, Variant
from convnext_dense.models.classifier import ImageClassifier
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.models.isotropic import IsotropicConvNeXt
from convnext_dense.models.last_stage import LastStage
from convnext_dense.models.roadmap import RoadmapNet

__all__ = [
    "ISOTROPIC_VARIANTS",
    "VARIANTS",
    "ConvNeXt",
    "ImageClassifier",
    "IsotropicConvNeXt",
    "LastStage",
    "RoadmapNet",
    "Variant",
]
