"""Metrics."""

from convnext_dense.evaluation.coco_metric import CocoMetric

__all__ = ["CocoMetric"]
