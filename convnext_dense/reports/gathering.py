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
        areas: (m,) areas of the objects in pixels: of the mask where there is one, else of the box.
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
    """Return the labelled objects of a detector's data set."""
    infos = [evaluation.dataset.get_data_info(number) for number in range(len(evaluation.dataset))]
    images, labels, boxes, crowds, rles = [], [], [], [], []
    for number, info in enumerate(infos):
        for item in info["instances"]:
            images.append(number)
            labels.append(item["bbox_label"])
            boxes.append(item["bbox"])
            crowds.append(bool(item.get("ignore_flag")))
            mask = item.get("mask")
            rles.append(encode_mask(mask, info["height"], info["width"]) if mask else None)
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    has_masks = bool(rles) and all(rle is not None for rle in rles)
    labelled = Labelled(
        np.array(images, int), np.array(labels, int), corners, np.array(crowds, bool), rles if has_masks else None
    )
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    if has_masks:
        from pycocotools import mask as masks

        areas = np.array([masks.area(rle) for rle in rles], np.float64)  # of a list, it takes no more than 255
    ids = [info["img_id"] for info in infos]
    sizes = [(int(info["height"]), int(info["width"])) for info in infos]
    annotations = _annotation_file(evaluation) or _as_coco(class_names, ids, sizes, labelled, areas)
    return ObjectData(class_names, evaluation.paths, ids, labelled, areas, annotations)


def _annotation_file(evaluation: Evaluation) -> Mapping[str, Any] | None:
    """Return the content of the file that the config's metric reads; None where it reads none."""
    for metric in Evaluator([dict(one) for one in evaluation.metrics]).metrics:
        coco = getattr(metric, "_coco_api", None)
        if coco is not None:
            return coco.dataset
    return None


def _as_coco(
    class_names: Sequence[str],
    ids: Sequence[Any],
    sizes: Sequence[tuple[int, int]],
    labelled: Labelled,
    areas: np.ndarray,
) -> dict[str, Any]:
    objects = []
    for number, (image, label, box, is_crowd) in enumerate(
        zip(labelled.images, labelled.labels, labelled.boxes, labelled.is_crowd, strict=True)
    ):
        item = dict(id=number + 1, image_id=ids[image], category_id=int(label) + 1, iscrowd=int(is_crowd))
        item |= dict(bbox=[*box[:2].tolist(), *(box[2:] - box[:2]).tolist()], area=float(areas[number]))
        if labelled.rles is not None:
            item["segmentation"] = labelled.rles[number]
        objects.append(item)
    return dict(
        images=[dict(id=one, height=size[0], width=size[1]) for one, size in zip(ids, sizes, strict=True)],
        categories=[dict(id=label + 1, name=name) for label, name in enumerate(class_names)],
        annotations=objects,
    )


def gather(results: Iterable[Detections]) -> Found:
    """Return what was found in all images, one result per image in their order."""
    images, labels, boxes, scores = [], [], [], []
    rles: list[Any] = []
    has_masks = True
    for number, found in enumerate(results):
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
