"""Fits a detection config to data in which no object has a mask, or only some have one."""

from typing import Any

from mmengine.config import Config, ConfigDict

from convnext_dense.config.custom_imports import add_import
from convnext_dense.config.datasets import config_dicts, evaluators
from convnext_dense.config.pipelines import step_name

# Parts of a two-stage detector's ``roi_head`` that are only for masks.
_MASK_PARTS = ("mask_head", "mask_roi_extractor")
# Arguments of transforms that remove objects, or shrink boxes, to their masks.
_NEEDING_MASKS = ("by_mask", "recompute_bbox")
# RoI heads that work without these parts, by mmdet's own ``with_mask``.
_ROI_HEADS = ("StandardRoIHead", "CascadeRoIHead")
_MODULE = "convnext_dense.models.roi_heads"  # ours, which learn masks from the objects that have one


def can_drop_masks(model: ConfigDict) -> bool:
    """Whether a detector still works without its mask head."""
    head = model.get("roi_head") or {}
    return bool(head.get("mask_head")) and str(head.get("type")).rpartition(".")[2] in _ROI_HEADS


def drop_masks(cfg: Config) -> None:
    """Remove the mask head, the loading and use of masks and the mask AP from a config, in place."""
    for part in _MASK_PARTS:
        cfg.model.roi_head.pop(part, None)
    for node in config_dicts(list(cfg.values())):
        if isinstance(steps := node.get("pipeline"), list):
            node["pipeline"] = [step for step in steps if step_name(step) != "CopyPaste"]
        for key in _NEEDING_MASKS:
            node.pop(key, None)
        if "with_mask" in node:
            node["with_mask"] = False
        if isinstance(node.get("save_best"), str):
            node["save_best"] = node["save_best"].replace("segm", "bbox")
    for name in ("val_evaluator", "test_evaluator"):
        evaluators = cfg.get(name)
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            if evaluator and "metric" in evaluator:
                evaluator.metric = _without_segm(evaluator.metric)


def unmasked_fault(cfg: Config) -> str | None:
    """Return why a config cannot learn boxes from objects without a mask, and masks from others; None if it can."""
    if not can_drop_masks(cfg.model):
        return f"only mmdet's {' and '.join(_ROI_HEADS)} with a mask head can leave out the masks of some objects"
    for node in config_dicts(cfg.get("train_dataloader")):
        for step in node.get("pipeline") or ():
            # CopyPaste cuts objects out by their masks.
            argument = next((key for key in _NEEDING_MASKS if step.get(key)), None)
            if step_name(step) == "CopyPaste" or argument:
                return f"{step_name(step)}{f' with {argument}=True' if argument else ''} needs the masks of all objects"
    return None


def learn_some_masks(cfg: Config) -> str:
    """Let a detector, in place, learn masks from the objects that have one; return the name of its RoI head."""
    head = cfg.model.roi_head
    head.type = f"convnext_dense.{str(head.type).rpartition('.')[2]}"
    add_import(cfg, _MODULE)
    return head.type


def ignores_missing_masks(cfg: Config, loader: str) -> bool:
    """Whether mask AP of ``'val'`` or ``'test'``, if it is measured, ignores objects without a mask."""
    measuring = [metric for metric in evaluators(cfg, loader) if "segm" in str(metric.get("metric", ()))]
    return all(str(metric.get("type")) == "convnext_dense.CocoMetric" for metric in measuring)


def measures_masks(cfg: Config, loader: str) -> bool:
    """Whether mask AP of ``'val'`` or ``'test'`` is measured."""
    return any("segm" in str(metric.get("metric", ())) for metric in evaluators(cfg, loader))


def _without_segm(metric: Any) -> Any:
    if isinstance(metric, str):
        return metric.replace("segm", "bbox")
    return [name for name in metric if name != "segm"] or ["bbox"]
