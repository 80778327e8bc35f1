"""Metrics. Those for detection are available if mmdet is installed."""

from importlib.util import find_spec

from convnext_dense.evaluation.accuracy import Accuracy
from convnext_dense.evaluation.iou_metric import IoUMetric

__all__ = ["Accuracy", "IoUMetric"]

if find_spec("mmdet") is not None:
    from convnext_dense.evaluation.coco_metric import CocoMetric

    __all__ += ["CocoMetric"]
