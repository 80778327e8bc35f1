"""Backbones, and the models that pre-train them, with labels and without."""

from convnext_dense.checkpoints.variants import ISOTROPIC_VARIANTS, VARIANTS, Variant
from convnext_dense.models.classifier import ImageClassifier
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.models.distillation import Distillation
from convnext_dense.models.isotropic import IsotropicConvNeXt
from convnext_dense.models.last_stage import LastStage
from convnext_dense.models.masked_autoencoder import MaskedAutoencoder
from convnext_dense.models.roadmap import RoadmapNet

__all__ = [
    "ISOTROPIC_VARIANTS",
    "VARIANTS",
    "ConvNeXt",
    "Distillation",
    "ImageClassifier",
    "IsotropicConvNeXt",
    "LastStage",
    "MaskedAutoencoder",
    "RoadmapNet",
    "Variant",
]
