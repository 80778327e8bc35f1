"""Backbones, and the classifier that they are pre-trained in."""

from convnext_dense.models.classifier import ImageClassifier
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.models.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "ConvNeXt", "ImageClassifier", "Variant"]
