"""The labelled objects of a data set, and those that a detector finds in it.

Letters: m labelled objects of a data set.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import Evaluator

from convnext_dense.data.checks.coco_masks import encode_mask
from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_evaluation import Truth, category_ids
from convnext_dense.inference import Detections
from convnext_dense.inference.validation import Evaluation
from convnext_dense.reports.matching import Found, Labelled


@dataclass(frozen=True)
class ObjectData:
    """The labelled images of a detector.

    Attributes:
        class_names: Names of the classes.
        paths: Of the images.
        ids: Of the images in the annotations.
        labelled: Their objects.
        areas: (m,) areas of the objects in pixels, as the annotations have them.
        annotations: Content of the annotation file, in COCO's format.
    """

    class_names: Sequence[str]
    paths: Sequence[Path]
    ids: Sequence[Any]
    labelled: Labelled
    areas: np.ndarray
    annotations: Mapping[str, Any]

    @property
    def has_masks(self) -> bool:
        """Whether every object has a mask."""
        return self.labelled.rles is not None

    @cached_property
    def category_ids(self) -> list[Any]:
        """The ids of the classes in the annotations."""
        return category_ids(self.annotations["categories"], self.class_names)

    @cached_property
    def truth(self) -> Truth:
        """The objects for COCO's evaluation."""
        return Truth(self.annotations, self.category_ids)


def read_objects(evaluation: Evaluation, class_names: Sequence[str]) -> ObjectData:
    """Return the labelled objects of a detector's data set: those that its metric counts."""
    infos = [evaluation.dataset.get_data_info(number) for number in range(len(evaluation.dataset))]
    content = _annotation_file(evaluation) or _as_coco(class_names, infos)
    places = {info["img_id"]: number for number, info in enumerate(infos)}
    labels = {number: label for label, number in enumerate(category_ids(content["categories"], class_names))}
    objects = [
        item
        for item in content["annotations"]
        if item["image_id"] in places and item["category_id"] in labels and item.get("bbox")
    ]
    objects.sort(key=lambda item: places[item["image_id"]])
    boxes = np.array([item["bbox"] for item in objects], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    images = np.array([places[item["image_id"]] for item in objects], int)
    rles = [
        encode_mask(item["segmentation"], infos[image]["height"], infos[image]["width"])
        if item.get("segmentation")
        else None
        for item, image in zip(objects, images.tolist(), strict=True)
    ]
    labelled = Labelled(
        images,
        np.array([labels[item["category_id"]] for item in objects], int),
        boxes,
        np.array([bool(item.get("iscrowd")) for item in objects], bool),
        rles if rles and all(rle is not None for rle in rles) else None,
    )
    areas = np.array([item.get("area") or 0.0 for item in objects], np.float64)
    return ObjectData(class_names, evaluation.paths, [info["img_id"] for info in infos], labelled, areas, content)


def _annotation_file(evaluation: Evaluation) -> Mapping[str, Any] | None:
    """Return the content of the file that the config's metric reads; None where it reads none."""
    for metric in Evaluator([dict(one) for one in evaluation.metrics]).metrics:
        coco = getattr(metric, "_coco_api", None)
        if coco is not None:
            return coco.dataset
    return None


def _as_coco(class_names: Sequence[str], infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the objects of a data set in COCO's format."""
    from pycocotools import mask as masks

    objects: list[dict[str, Any]] = []
    for info in infos:
        for item in info["instances"]:
            x1, y1, x2, y2 = item["bbox"]
            one = dict(id=len(objects) + 1, image_id=info["img_id"], category_id=int(item["bbox_label"]) + 1)
            one |= dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
            if item.get("mask"):
                one["segmentation"] = encode_mask(item["mask"], info["height"], info["width"])
                one["area"] = float(masks.area(one["segmentation"]))
            objects.append(one | dict(iscrowd=int(bool(item.get("ignore_flag")))))
    return dict(
        images=[dict(id=info["img_id"], height=int(info["height"]), width=int(info["width"])) for info in infos],
        categories=[dict(id=label + 1, name=name) for label, name in enumerate(class_names)],
        annotations=objects,
    )


def gather(results: Iterable[Detections]) -> Found:
    """Return what was found in all images, one result per image in their order."""
    images, labels, boxes, scores = [], [], [], []
    rles: list[Any] = []
    has_masks = True
    for number, found in enumerate(results):
        if not np.isfinite(found.scores).all() or not np.isfinite(found.boxes).all():
            raise UserError(
                f"What the model gives for image {number + 1} is no number (NaN): its weights are not whole."
            )
        images.append(np.full(len(found.scores), number))
        labels.append(found.labels)
        boxes.append(found.boxes.astype(np.float64))
        scores.append(found.scores.astype(np.float64))
        has_masks &= found.rles is not None
        rles += found.rles or ()
    return Found(
        np.concatenate([np.zeros(0, int), *images]),
        np.concatenate([np.zeros(0, int), *labels]),
        np.concatenate([np.zeros((0, 4)), *boxes]),
        np.concatenate([np.zeros(0), *scores]),
        rles if has_masks else None,
    )
