"""A model that is loaded once, and what it finds in images, videos and huge pictures."""

from convnext_dense.inference.loading import load_model
from convnext_dense.inference.model import LoadedModel
from convnext_dense.inference.panoptic import Panoptic
from convnext_dense.inference.plain import to_result
from convnext_dense.inference.predictor import Predictor, draw_result, predict
from convnext_dense.inference.results import ClassScores, Detections, LabelMap, Result
from convnext_dense.inference.tiles import Tiles

__all__ = [
    "ClassScores",
    "Detections",
    "LabelMap",
    "LoadedModel",
    "Panoptic",
    "Predictor",
    "Result",
    "Tiles",
    "draw_result",
    "load_model",
    "predict",
    "to_result",
]
