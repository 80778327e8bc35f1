"""Evaluates the ground truth of a data set as if it were predicted, which gives the best possible result.

A result below 1 means that something is lost between the files and the metric: an object that the data set does not
read, an id or a class that the two understand differently, or a label that is decoded in another way.
"""

import contextlib
import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, METRICS
from PIL import Image

from convnext_dense.config.datasets import known_class_names, leaf_datasets
from convnext_dense.data.checks.coco_masks import NO_MASK, encode_mask
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.checks.segmentation import reduces_zero_label
from convnext_dense.data.image_folder import read_names

# COCO's AP counts 100 detections per image and class; here all objects must be found, however many there are.
_MANY = 1_000_000
_COUNTED = 100

# End of a metric's name -> its name in the report, and its best value.
_BEST = {
    f"bbox_mAP@{_MANY}": ("box AP", 1.0),
    f"segm_mAP@{_MANY}": ("mask AP", 1.0),
    "bbox_mAP": ("box AP", 1.0),
    "segm_mAP": ("mask AP", 1.0),
    "mIoU": ("mIoU", 100.0),
    "accuracy/top1": ("top-1", 1.0),
}
_TOLERANCE = 1e-6

Batch = tuple[list[dict[str, Any]], dict[str, Any]]  # the input of a metric: predictions, and their batch


def inspect_round_trip(cfg: Config, loaders: Sequence[str], inspection: Inspection, task: str) -> None:
    """Evaluate the ground truth of every evaluated data set with the config's evaluator.

    Detection reads all objects, segmentation as many labels as the inspection opens, classification the names of all
    files.

    Args:
        cfg: The config, in whose data no errors were found.
        loaders: Loaders to check; ``'train'`` is skipped.
        inspection: Collects one sentence with the results per data set, and an error where a result is below 1.
        task: A key of ``tasks.TASKS``.
    """
    done = []
    for loader in loaders:
        if loader == "train" or cfg.get(f"{loader}_dataloader") is None or not cfg.get(f"{loader}_evaluator"):
            continue
        described = (cfg[f"{loader}_dataloader"].dataset, cfg[f"{loader}_evaluator"])
        if described in done:
            continue
        done.append(described)
        metrics = _evaluate(*described, TRUTHS[task], inspection)
        _judge(metrics, loader, inspection)


def _evaluate(dataset_cfg: ConfigDict, evaluator_cfg: Any, truth: Callable, inspection: Inspection) -> dict[str, float]:
    with _silence():
        evaluator = Evaluator([_of_all(_without_files(metric)) for metric in _as_list(evaluator_cfg)])
        size = 0
        for leaf in leaf_datasets(dataset_cfg):
            dataset = DATASETS.build(leaf)
            evaluator.dataset_meta = dataset.metainfo
            for samples, batch in truth(dataset, leaf, inspection):
                evaluator.process(data_samples=samples, data_batch=batch)
                size += len(samples)
        return evaluator.evaluate(size) if size else {}


def _judge(metrics: Mapping[str, float], loader: str, inspection: Inspection) -> None:
    figures = {
        name: float(value) / best
        for key, value in metrics.items()
        for end, (name, best) in _BEST.items()
        if key == end or key.endswith(f"/{end}")
    }
    if not figures:
        return
    text = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    text = f"Round trip: the ground truth of {loader}, evaluated as if it were predicted, has {text}"
    inspection.lines.append(text + ".")
    if min(figures.values()) < 1 - _TOLERANCE:
        counts_all = any(key.endswith(f"mAP@{_MANY}") for key in metrics)
        lowering = _LOWERING if counts_all else (*_LOWERING, "crowded images")
        known = [finding.check for finding in inspection.findings if finding.check in lowering]
        if known:
            inspection.warning("round trip", f"{text}; it is not 1 because of: {', '.join(known)}.")
        else:
            inspection.error("round trip", f"{text}: the files and the evaluation disagree.")


# Findings that explain a round trip below 1. Crowded images explain it for mmdet's own metric, which stops at 100.
_LOWERING = ("boxes without area", "ignored objects", "masks without pixels", "crowds alone", "empty splits")


def _detections(dataset: Any, _: ConfigDict, inspection: Inspection) -> Iterator[Batch]:
    """Yield the objects of every image, as mmdet's data set reads them."""
    for index in inspection.follow(range(len(dataset)), "images through the evaluation"):
        info = dataset.get_data_info(index)
        objects = [item for item in info["instances"] if not item["ignore_flag"]]
        boxes = torch.tensor([item["bbox"] for item in objects], dtype=torch.float64).reshape(-1, 4)
        predicted: dict[str, Any] = dict(
            bboxes=boxes,
            scores=torch.ones(len(objects)),
            labels=torch.tensor([item["bbox_label"] for item in objects], dtype=torch.int64),
        )
        most = max(Counter(item["bbox_label"] for item in objects).values(), default=0)
        if most > _COUNTED:
            inspection.note(
                "crowded images",
                f"{info['img_path']} has {most} objects of one class: AP counts {_COUNTED} detections per image and "
                "class, so no model can reach 1 (the round trip counts all).",
            )
        size = (info["height"], info["width"])
        if all("mask" in item for item in objects):
            # An object without a mask is predicted as its box, the region in which mask AP ignores what is found.
            masks = [item["mask"] if item["mask"] != NO_MASK else [_corners(*item["bbox"])] for item in objects]
            predicted["masks"] = [encode_mask(mask, *size) for mask in masks]
            _note_empty(predicted["masks"], info, inspection)
        yield [dict(img_id=info["img_id"], ori_shape=size, pred_instances=predicted)], {}


def _corners(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def _note_empty(encoded: Sequence[dict[str, Any]], info: Mapping[str, Any], inspection: Inspection) -> None:
    from pycocotools import mask as masks

    num_empty = int((masks.area(list(encoded)) == 0).sum()) if encoded else 0
    if num_empty:
        inspection.warning(
            "masks without pixels",
            f"An object of {info['img_path']} has a mask without a pixel: it cannot be found.",
            num_empty,
        )


def _labels(dataset: Any, cfg: ConfigDict, inspection: Inspection) -> Iterator[Batch]:
    """Yield label files as Pillow reads them, together with what the loading step of the config's pipeline returns."""
    load = next(step for step in dataset.pipeline.transforms if type(step).__name__.endswith("LoadAnnotations"))
    numbers = _class_numbers(dataset, cfg)
    for index in inspection.follow(inspection.pick(range(len(dataset))), "labels through the evaluation"):
        info = dataset.get_data_info(index)
        with Image.open(info["seg_map_path"]) as file:
            predicted = numbers[np.asarray(file).astype(np.uint8)]
        truth = load(info)["gt_seg_map"].astype(np.int64)
        if truth.shape != predicted.shape:
            inspection.error(
                "round trip",
                f"Label {info['seg_map_path']} is read as an array of shape {truth.shape}; set "
                "imdecode_backend='pillow' in LoadAnnotations.",
            )
            return
        sample = dict(img_path=info["img_path"], reduce_zero_label=False)
        for key, values in (("pred_sem_seg", predicted), ("gt_sem_seg", truth)):
            sample[key] = dict(data=torch.from_numpy(values)[None])
        yield [sample], {}


def _class_numbers(dataset: Any, cfg: ConfigDict) -> np.ndarray:
    """Return the class number, or the ignored index, of each value in a file, by the class names alone."""
    ignored, classes = dataset.ignore_index, list(dataset.metainfo["classes"])
    numbers = np.full(256, ignored, np.int64)
    for label, name in enumerate(known_class_names(cfg) or classes):
        if name in classes:
            numbers[label + reduces_zero_label(cfg)] = classes.index(name)
    return numbers


def _folders(dataset: Any, cfg: ConfigDict, inspection: Inspection) -> Iterator[Batch]:
    """Yield the class that an image's folder or a list names, for data sets that list their images."""
    classes = list(dataset.metainfo["classes"])
    listed = read_names(cfg.ann_file) if cfg.get("ann_file") else {}
    for path, label in getattr(dataset, "samples", ()):
        scores = torch.zeros(len(classes))
        scores[classes.index(listed.get(os.path.relpath(path, cfg.root)) or Path(path).parent.name)] = 1
        yield [dict(scores=scores)], dict(labels=torch.tensor([label]))


TRUTHS: dict[str, Callable[[Any, ConfigDict, Inspection], Iterator[Batch]]] = {
    "detection": _detections,
    "segmentation": _labels,
    "classification": _folders,
}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _without_files(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metric.items() if key not in ("outfile_prefix", "output_dir", "format_only")}


def _of_all(metric: dict[str, Any]) -> dict[str, Any]:
    """Let our detection metric count all objects of an image."""
    kind = metric["type"]
    if isinstance(kind, str):
        with METRICS.switch_scope_and_registry(None) as registry:  # where the config's default scope is
            kind = registry.get(kind)
    is_ours = getattr(kind, "__module__", None) == "convnext_dense.evaluation.coco_metric"
    return metric | dict(proposal_nums=(_COUNTED, _MANY), metric_items=[f"mAP@{_MANY}"]) if is_ours else metric


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the metrics' tables out of the log, where they would look like a model's results."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
