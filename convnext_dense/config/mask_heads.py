"""Removes masks from a detection config whose data has only boxes."""

from typing import Any

from mmengine.config import Config, ConfigDict

from convnext_dense.config.datasets import config_dicts

# Parts of a two-stage detector's ``roi_head`` that are only for masks.
_MASK_PARTS = ("mask_head", "mask_roi_extractor")
# RoI heads that work without these parts, by mmdet's own ``with_mask``.
_ROI_HEADS = ("StandardRoIHead", "CascadeRoIHead")


def can_drop_masks(model: ConfigDict) -> bool:
    """Whether a detector still works without its mask head."""
    head = model.get("roi_head") or {}
    return bool(head.get("mask_head")) and str(head.get("type")).rpartition(".")[2] in _ROI_HEADS


def drop_masks(cfg: Config) -> None:
    """Remove the mask head, the loading of masks and the mask AP from a config, in place."""
    for part in _MASK_PARTS:
        cfg.model.roi_head.pop(part, None)
    for node in config_dicts(list(cfg.values())):
        if "with_mask" in node:
            node["with_mask"] = False
        if isinstance(node.get("save_best"), str):
            node["save_best"] = node["save_best"].replace("segm", "bbox")
    for name in ("val_evaluator", "test_evaluator"):
        evaluators = cfg.get(name)
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            if evaluator and "metric" in evaluator:
                evaluator.metric = _without_segm(evaluator.metric)


def _without_segm(metric: Any) -> Any:
    if isinstance(metric, str):
        return metric.replace("segm", "bbox")
    return [name for name in metric if name != "segm"] or ["bbox"]
