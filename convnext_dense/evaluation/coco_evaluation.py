"""AP and AR of boxes, masks and proposals by COCO's protocol.

Letters of shapes: T IoU thresholds, R recall points, K classes, A object sizes (all, small, medium, large), M detection
limits.

Source: pycocotools 2.0.11, cocoeval.py (``summarize``); mmdet v3.3.0, evaluation/metrics/coco_metric.py and
evaluation/functional/recall.py. Matching: https://github.com/MiXaiLL76/faster_coco_eval
Differs: ids may be of any kind, as they are renumbered; thresholds are found in spite of rounding; a set without any
detections is evaluated like any other; mask AP ignores what is found in the box of an object without a mask, as in a
crowd; proposals of ``fast_recalls`` belong to an image by its id, not its position.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.evaluation.functional import bbox_overlaps

from convnext_dense.errors import UserError

# Detections per image and class that COCO's primary AP counts.
MAX_DETECTIONS = 100
# The mask with which mmdet's LoadAnnotations loads an object that has none; it has no pixel.
_NO_MASK = [[0.0] * 6]


class Item(NamedTuple):
    """The table entries that a result is the mean of.

    Attributes:
        table: ``'precision'`` or ``'recall'``.
        limit: Number of detections with the highest scores that count, per image and class.
        size: Index of the object size.
        iou: A single IoU threshold; None for all.
    """

    table: str
    limit: int
    size: int = 0
    iou: float | None = None


def items_of(proposal_nums: Sequence[int]) -> dict[str, Item]:
    """Return every result by its name.

    As in pycocotools, ``mAP`` counts 100 detections, and results for one threshold or size count the third smallest of
    ``proposal_nums``, or the largest if there are fewer.
    """
    limits = sorted(proposal_nums)
    main = main_limit(limits)
    items = {"mAP": Item("precision", MAX_DETECTIONS)}
    items |= {f"mAP_{percent}": Item("precision", main, iou=percent / 100) for percent in (50, 75)}
    items |= {f"mAP_{letter}": Item("precision", main, size) for size, letter in enumerate("sml", start=1)}
    items |= {f"AR@{limit}": Item("recall", limit) for limit in limits}
    items |= {f"AR_{letter}@{main}": Item("recall", main, size) for size, letter in enumerate("sml", start=1)}
    return items | {f"mAP@{limit}": Item("precision", limit) for limit in limits}


def main_limit(proposal_nums: Sequence[int]) -> int:
    """Return the third smallest number, as pycocotools does, or the largest if there are fewer."""
    return sorted(proposal_nums)[:3][-1]


def category_ids(categories: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[Any]:
    """Return the annotation file's id of every class, in the order of the model's classes.

    Raises:
        UserError: The file lacks a class.
    """
    ids = {category["name"]: category["id"] for category in categories}
    absent = [name for name in class_names if name not in ids]
    if absent:
        raise UserError(
            f"The annotation file has no class {', '.join(map(repr, absent[:5]))}; it has {', '.join(map(repr, ids))}."
        )
    return [ids[name] for name in class_names]


class Truth:
    """The objects of an annotation file, with whole numbers as ids.

    Args:
        dataset: Content of the annotation file.
        category_ids: Ids of the model's classes in the file; objects of other classes are left out.
    """

    def __init__(self, dataset: Mapping[str, Any], category_ids: Sequence[Hashable]) -> None:
        self.images = _number(image["id"] for image in dataset["images"])
        self.labels = {category_id: label for label, category_id in enumerate(category_ids, start=1)}
        self._annotations = [
            item
            for item in dataset.get("annotations", ())
            if item["image_id"] in self.images and item["category_id"] in self.labels
        ]
        # COCOeval marks matches with the annotation's id, and 0 means no match, so ids start at 1.
        self.objects = [self._renamed(item, id=number) for number, item in enumerate(self._annotations, start=1)]
        self.num_without_mask = sum(map(_has_no_mask, self.objects))
        self._images = [{**image, "id": self.images[image["id"]]} for image in dataset["images"]]
        self._coco = self._as_coco(self.objects)

    def _as_coco(self, objects: list[dict[str, Any]]) -> COCO:
        categories = [dict(id=label, name=str(label)) for label in self.labels.values()]
        return COCO(dict(images=self._images, categories=categories, annotations=objects))

    def evaluate(
        self,
        detections: Iterable[Mapping[str, Any]],
        kind: str,
        *,
        iou_thrs: np.ndarray,
        limits: Sequence[int],
        per_class: bool = True,
    ) -> "Figures":
        """Match detections with objects.

        Args:
            detections: Detections in COCO's result format, with the ids of the annotation file.
            kind: ``'bbox'`` or ``'segm'``.
            iou_thrs: IoU thresholds.
            limits: Numbers of detections per image and class.
            per_class: Whether a detection must have the object's class.

        Raises:
            UserError: An object has no area or no box, or masks are evaluated and no object has one.
        """
        self._require("area", *(["bbox"] if kind == "bbox" else []))
        coco = self._coco if kind == "bbox" else self._of_masks()
        # COCOeval takes a detection's size from its box if it has one; masks must be sized as masks.
        unused = "bbox" if kind == "segm" else "segmentation"
        found = [self._renamed({key: item[key] for key in item if key != unused}) for item in detections]
        evaluation = COCOeval_faster(coco, coco.loadRes(found), kind, print_function=lambda *_: None)
        evaluation.params.maxDets = sorted(set(limits))
        evaluation.params.iouThrs = iou_thrs
        evaluation.params.useCats = int(per_class)
        evaluation.evaluate()
        evaluation.accumulate()
        return Figures(evaluation.eval, iou_thrs, evaluation.params.maxDets)

    def fast_recalls(
        self, predictions: Iterable[Mapping[str, Any]], *, iou_thrs: np.ndarray, limits: Sequence[int]
    ) -> dict[int, float]:
        """Return the recall of boxes of any class, averaged over thresholds; -1 if there are no objects.

        Boxes and objects are paired by decreasing IoU, each at most once.

        Args:
            predictions: ``img_id``, ``bboxes`` (corners) and ``scores`` of every image.
            iou_thrs: IoU thresholds.
            limits: Numbers of boxes per image that count.
        """
        self._require("bbox")
        objects: dict[int, list] = {}
        for item in self.objects:
            if not item.get("ignore") and not item.get("iscrowd"):
                objects.setdefault(item["image_id"], []).append(item["bbox"])
        best = {limit: [np.zeros(0)] for limit in limits}
        for prediction in predictions:
            boxes = np.array(objects.pop(self._image(prediction["img_id"]), []), np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            order = np.argsort(-prediction["scores"], kind="stable")
            ious = bbox_overlaps(boxes, prediction["bboxes"][order].astype(np.float32))
            for limit in limits:
                best[limit].append(_paired(ious[:, :limit].copy()))
        missed = sum(map(len, objects.values()))
        return {limit: _recall(np.concatenate(found), missed, iou_thrs) for limit, found in best.items()}

    def _of_masks(self) -> COCO:
        """Return the objects with their masks; the box of an object without one is a region that is ignored."""
        if self.num_without_mask == len(self.objects):
            self._require("segmentation")
        if not self.num_without_mask:
            return self._coco
        self._require("bbox")
        return self._as_coco(
            [
                {**item, "segmentation": [_corners(*item["bbox"])], "iscrowd": 1} if _has_no_mask(item) else item
                for item in self.objects
            ]
        )

    def _require(self, *keys: str) -> None:
        for item in self._annotations:
            for key in keys:
                if item.get(key) in (None, []):
                    raise UserError(f"Annotation {item.get('id')!r} has no {key}: it cannot be evaluated.")

    def _image(self, image_id: Hashable) -> int:
        if image_id not in self.images:
            raise UserError(f"Image id {image_id!r} of the predictions is not in the annotation file.")
        return self.images[image_id]

    def _renamed(self, item: Mapping[str, Any], **other: Any) -> dict[str, Any]:
        return {
            **item,
            **other,
            "image_id": self._image(item["image_id"]),
            "category_id": self.labels[item["category_id"]],
        }


class Figures:
    """The results of one evaluation.

    Args:
        tables: ``precision`` (T, R, K, A, M) and ``recall`` (T, K, A, M), -1 where there are no objects.
        iou_thrs: IoU thresholds.
        limits: Numbers of detections.
    """

    def __init__(self, tables: Mapping[str, Any], iou_thrs: np.ndarray, limits: Sequence[int]) -> None:
        self._tables = {name: np.asarray(tables[name]) for name in ("precision", "recall")}
        self._iou_thrs = iou_thrs
        self._limits = list(limits)

    def __getitem__(self, item: Item) -> float:
        """Return the mean over all classes that have objects; -1 if there are none, or no such threshold."""
        return self._mean(item, slice(None))

    def of_class(self, label: int, limit: int) -> float:
        """Return the AP of one class; -1 if it has no objects."""
        return self.of_item(Item("precision", limit), label)

    def of_item(self, item: Item, label: int) -> float:
        """Return a result for one class; -1 if it has no objects."""
        return self._mean(item, slice(label, label + 1))

    def _mean(self, item: Item, classes: slice) -> float:
        values = self._tables[item.table][..., classes, item.size, self._limits.index(item.limit)]
        if item.iou is not None:
            values = values[np.isclose(self._iou_thrs, item.iou)]
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0


def _has_no_mask(item: Mapping[str, Any]) -> bool:
    return item.get("segmentation") in (None, [], _NO_MASK)


def _corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _number(ids: Iterable[Hashable]) -> dict[Hashable, int]:
    """Number ids from 1 in pycocotools' order, which decides between equal scores."""
    unique = set(ids)
    try:
        ordered = sorted(unique)  # type: ignore[type-var]
    except TypeError:  # numbers and text
        ordered = sorted(unique, key=str)
    return {value: number for number, value in enumerate(ordered, start=1)}


def _paired(ious: np.ndarray) -> np.ndarray:
    """Return the IoU of every object with its paired box, 0 if it has none; change ``ious`` in place."""
    num_objects, num_boxes = ious.shape
    paired = np.zeros(num_objects, np.float32)
    for position in range(min(num_objects, num_boxes)):
        row, column = np.unravel_index(ious.argmax(), ious.shape)
        paired[position] = ious[row, column]
        ious[row, :] = ious[:, column] = -1
    return paired


def _recall(ious: np.ndarray, missed: int, iou_thrs: np.ndarray) -> float:
    total = len(ious) + missed
    return float((ious >= iou_thrs[:, None]).sum(axis=1).mean() / total) if total else -1.0
