"""Counts of right and wrong pixels, per class and image, and what they say about a segmenter.

Letters: N images, H and W the height and width of one in pixels, C classes.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np

from convnext_dense.evaluation.iou_metric import class_shares
from convnext_dense.inference.validation import Evaluation

DILATION_RATIO = 0.02  # of an image's diagonal: the width of a boundary (boundary IoU, arXiv 2103.16562, section 4)


class ImagePixels(NamedTuple):
    """The pixels of one image.

    Attributes:
        confusion: (C + 1, C) numbers of pixels: rows are labelled, columns found classes; the last row is of labels
            that are no class and yet count.
        boundary: (2, C) pixels of the intersection and of the union of labelled and found boundaries.
        near: Wrong pixels near a labelled boundary, wrong pixels, pixels near one, and pixels.
        unlabelled: Pixels that do not count.
    """

    confusion: np.ndarray
    boundary: np.ndarray
    near: np.ndarray
    unlabelled: int


def count_image(truth: np.ndarray, found: np.ndarray, num_classes: int, *, ignored: int) -> ImagePixels:
    """Count the pixels of an image.

    Args:
        truth: (H, W) labels.
        found: (H, W) labels.
        num_classes: C.
        ignored: Label of pixels that do not count.
    """
    counts = truth != ignored
    truth = np.where((truth >= 0) & (truth < num_classes), truth, num_classes).astype(np.uint16)
    found = np.where(counts, found, num_classes).astype(np.uint16)
    pairs = truth[counts].astype(np.int64) * num_classes + found[counts]
    confusion = np.bincount(pairs, minlength=(num_classes + 1) * num_classes).reshape(num_classes + 1, num_classes)
    width = max(1, round(DILATION_RATIO * math.hypot(*truth.shape)))
    labelled, seen = (boundary(labels, width) & counts for labels in (truth, found))
    both = labelled & seen & (truth == found)
    edges = [np.bincount(labels[at], minlength=num_classes + 1) for labels, at in ((truth, labelled), (found, seen))]
    shared = np.bincount(truth[both], minlength=num_classes + 1)
    is_near = boundary(truth, width, with_border=False) & counts
    is_wrong = (truth != found) & counts
    near = [(is_wrong & is_near).sum(), is_wrong.sum(), is_near.sum(), counts.sum()]
    union = edges[0] + edges[1] - shared
    return ImagePixels(
        confusion, np.stack([shared, union])[:, :num_classes], np.array(near, np.int64), int((~counts).sum())
    )


def boundary(labels: np.ndarray, width: int, *, with_border: bool = True) -> np.ndarray:
    """Return which pixels of an (H, W) label map are no further than ``width`` from a pixel of another label.

    Distance is that of the king in chess. The outside of the image is another label, unless ``with_border`` is false.
    """
    padded = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=65535) if with_border else labels
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    is_edge = cv2.erode(padded, window) != cv2.dilate(padded, window)
    return is_edge[1:-1, 1:-1] if with_border else is_edge


class PixelCounts(NamedTuple):
    """The pixels of a data set.

    Attributes:
        confusion: (C + 1, C), the sum of those of all images.
        images: (N, 3, C) pixels of each image that are right, found as each class, and labelled as it.
        boundary: (2, C), the sum of those of all images.
        near: The sum of those of all images.
        unlabelled: Pixels that do not count.
    """

    confusion: np.ndarray
    images: np.ndarray
    boundary: np.ndarray
    near: np.ndarray
    unlabelled: int


def count_pixels_of(evaluation: Evaluation, results: Iterable[Any], num_classes: int) -> PixelCounts:
    """Count the pixels of all images; there is one result per image, in the order of their paths."""
    images, unlabelled = [], 0
    confusion = np.zeros((num_classes + 1, num_classes), np.int64)
    edges, near = np.zeros((2, num_classes), np.int64), np.zeros(4, np.int64)
    for place, found in enumerate(results):
        truth, ignored = labels_of(evaluation, place)
        one = count_image(truth, np.asarray(found.label_map), num_classes, ignored=ignored)
        images.append(_sums(one.confusion))
        confusion += one.confusion
        edges += one.boundary
        near += one.near
        unlabelled += one.unlabelled
    return PixelCounts(confusion, np.stack(images), edges, near, unlabelled)


def labels_of(evaluation: Evaluation, place: int) -> tuple[np.ndarray, int]:
    """Return the (H, W) labels of an image, and the label of pixels that do not count."""
    labels = evaluation.dataset[place]["data_samples"].gt_sem_seg.data
    return labels.reshape(labels.shape[-2:]).numpy(), getattr(evaluation.dataset, "ignore_index", 255)


def _sums(confusion: np.ndarray) -> np.ndarray:
    return np.stack([np.diag(confusion), confusion.sum(axis=0), confusion[:-1].sum(axis=1)])


def shares(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return IoU, accuracy, precision and Dice of every class, NaN where it does not occur; ``sums`` is (3, C)."""
    right, found, labelled = sums
    counts = np.stack([right, found + labelled - right, found, labelled])
    values = class_shares(counts, ["mIoU", "mDice", "mFscore"], beta=1)
    return {name: values[name] for name in ("IoU", "Acc", "Precision", "Dice")}


def boundary_iou(counts: PixelCounts) -> np.ndarray:
    """Return the boundary IoU of every class, NaN where it does not occur."""
    with np.errstate(invalid="ignore"):
        return counts.boundary[0] / counts.boundary[1]


def image_costs(images: np.ndarray) -> np.ndarray:
    """Return by how much the mean IoU would rise if all pixels of an image were right, for each of (N, 3, C)."""
    right, found, labelled = images.sum(axis=0)
    union = found + labelled - right
    with np.errstate(invalid="ignore"):
        before = np.nanmean(right / union) if union.any() else 0.0
        own_union = images[:, 1] + images[:, 2] - images[:, 0]
        after = (right + images[:, 2] - images[:, 0]) / (union - own_union + images[:, 2])
    is_known = np.isfinite(after).any(axis=1)
    costs = np.zeros(len(images))
    costs[is_known] = np.nanmean(after[is_known], axis=1) - before
    return costs
