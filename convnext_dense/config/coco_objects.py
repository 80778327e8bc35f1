"""Rewrites the data sets, loading steps and metrics of any mmdet detection config for objects in COCO format.

A custom folder has boxes and perhaps masks. A config for another data set would read it with that data set's classes
and metric; a panoptic one would also read stuff (sky, grass), from files that do not exist.
"""

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from convnext_dense.config.datasets import config_dicts, leaf_datasets

# Keys of a data set's config that are kept; the caller sets paths, names and classes for its folder.
_KEPT = ("pipeline", "filter_cfg", "test_mode", "backend_args", "indices", "return_classes", "lazy_init", "max_refetch")
# Parts of a two-stage detector that learn from stuff maps, and what reads their features.
_STUFF_PARTS = ("semantic_head", "semantic_roi_extractor")


def use_coco_objects(cfg: Config, loaders: Sequence[str] = ("train", "val", "test")) -> None:
    """Make a detection config, in place, read objects in COCO format, learn from them and be evaluated on them.

    Args:
        cfg: The config.
        loaders: Loaders whose data sets and metrics are changed.
    """
    for node in config_dicts(list(cfg.values())):
        for position, step in enumerate(node.get("pipeline") or ()):
            node["pipeline"][position] = _without_stuff(step)
    for loader in loaders:
        if cfg.get(f"{loader}_dataloader") is None:
            continue
        dataset = cfg[f"{loader}_dataloader"].dataset
        for leaf in leaf_datasets(dataset):
            for key in [key for key in leaf if key not in _KEPT]:
                leaf.pop(key)
            leaf.type = "mmdet.CocoDataset"
        _join_copies(dataset)
        if cfg.get(f"{loader}_evaluator"):
            cfg[f"{loader}_evaluator"] = _evaluator(cfg, cfg[f"{loader}_evaluator"])
    drop_stuff(cfg)


def _without_stuff(step: ConfigDict) -> ConfigDict:
    """Return a loading step for the boxes and masks of an annotation file."""
    kind = str(step.get("type")).rpartition(".")[2]
    if kind == "LoadPanopticAnnotations":
        return ConfigDict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=step.get("with_mask", True))
    if kind == "LoadAnnotations" and step.get("with_seg"):
        step.with_seg = False
    return step


def _evaluator(cfg: Config, evaluators: Any) -> Any:
    """Return our COCO metric, with the arguments of the config's COCO metric, or else for boxes, and masks if read."""
    several = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    kept = [metric for metric in several if str(metric.get("type")).rpartition(".")[2] == "CocoMetric"]
    if not kept:
        reads_masks = any(node.get("with_mask") for node in config_dicts(cfg.get("train_dataloader")))
        kept = [ConfigDict(metric=["bbox", "segm"] if reads_masks else ["bbox"])]
    for metric in kept:
        metric.type = "convnext_dense.CocoMetric"
    return kept if isinstance(evaluators, list | tuple) else kept[0]


def _join_copies(node: Any) -> None:
    """Replace joined data sets that have become the same folder by a single one."""
    for child in [*node.get("datasets", ()), *filter(None, [node.get("dataset")])]:
        _join_copies(child)
    if node.get("datasets") and all(child == node.datasets[0] for child in node.datasets):
        only = node.datasets[0]
        node.clear()
        node.update(only)


def drop_stuff(cfg: Config) -> None:
    """Remove the parts of a model that learn from stuff maps, which do not exist."""
    dropped = []
    for node in config_dicts(cfg.model):
        if "panoptic_fusion_head" in node and "roi_head" in node:  # Panoptic FPN: a Mask R-CNN with a branch for stuff
            node.pop("panoptic_fusion_head")
            node.type = "mmdet.MaskRCNN"
        if "bbox_head" in node or "roi_head" in node:  # in a detector, or among its heads
            dropped += [key for key in _STUFF_PARTS if node.pop(key, None) is not None]
        if node.get("panoptic_on"):
            node.update(panoptic_on=False, semantic_on=False, instance_on=True)
    if dropped:
        print_log(f"{', '.join(dropped)} would learn from stuff maps, and there are none: left out.", "current")
