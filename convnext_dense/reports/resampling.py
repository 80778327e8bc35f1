"""Metrics of parts of a data set, from what is kept of each image.

Letters: N images, C classes, n found objects of the data set, T IoU thresholds, B samples of the images.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from convnext_dense.reports.classification import Scored
from convnext_dense.reports.detection import THRESHOLDS
from convnext_dense.reports.gathering import ObjectData
from convnext_dense.reports.matching import RECALLS, Found, match_at

_AT_ONCE = 4_000_000  # numbers
Arrays = Mapping[str, np.ndarray]
Values = dict[str, np.ndarray]


def keep_objects(data: ObjectData, found: Found) -> dict[str, np.ndarray]:
    """Return what is kept of each image of a detector."""
    labelled = data.labelled
    totals = np.zeros((len(data.paths), len(data.class_names)), int)
    np.add.at(totals, (labelled.images[~labelled.is_crowd], labelled.labels[~labelled.is_crowd]), 1)
    kept = dict(totals=totals)
    for kind in ["box"] + (["mask"] if data.has_masks and found.rles is not None else []):
        matched = match_at(labelled, found, THRESHOLDS.tolist(), by_mask=kind == "mask")
        fields = dict(images=matched.found.images, labels=matched.found.labels, scores=matched.found.scores)
        fields |= dict(is_true=matched.is_true, counts=matched.counts)
        kept |= {f"{kind}_{name}": values for name, values in fields.items()}
    return kept


def keep_pixels(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is kept of each image of a segmenter: the (N, 3, C) pixels of ``PixelCounts``."""
    return dict(pixels=images)


def keep_classes(scored: Scored, num_classes: int) -> dict[str, np.ndarray]:
    """Return what is kept of each image of a classifier."""
    return dict(labels=scored.labels, ranks=scored.ranks, num_classes=np.array(num_classes))


def images_with_classes(kept: Arrays) -> np.ndarray:
    """Return the (C,) numbers of images with each class in their labels."""
    if "pixels" in kept:
        return (kept["pixels"][:, 2] > 0).sum(axis=0)
    if "ranks" in kept:
        return np.bincount(kept["labels"], minlength=int(kept["num_classes"]))
    return (kept["totals"] > 0).sum(axis=0)


def metrics_of(kept: Arrays, weights: np.ndarray) -> tuple[Values, Values]:
    """Return metrics of samples.

    Args:
        kept: By one of the functions above.
        weights: (B, N) how often each image is in each sample.

    Returns:
        (B,) values of each metric of the data set, and (B, C) of each metric of a class; NaN where there is none.
    """
    if "pixels" in kept:
        return _of_pixels(kept["pixels"], weights)
    if "ranks" in kept:
        return _of_classes(kept, weights)
    of_set: Values = {}
    of_class: Values = {}
    for kind in ("box", "mask"):
        if f"{kind}_scores" in kept:
            precisions = _average_precisions(kept, kind, weights)
            with np.errstate(invalid="ignore"):
                of_class[f"{kind} AP"] = precisions.mean(axis=1)
            of_set |= {f"{kind} AP": _mean(of_class[f"{kind} AP"]), f"{kind} AP50": _mean(precisions[:, 0])}
    return of_set, of_class


def _of_pixels(images: np.ndarray, weights: np.ndarray) -> tuple[Values, Values]:
    sums = np.tensordot(weights.astype(np.float64), images.astype(np.float64), 1)  # exact up to 2**53 pixels
    right, found, labelled = sums[:, 0], sums[:, 1], sums[:, 2]
    with np.errstate(invalid="ignore"):
        ious, accuracies = right / (found + labelled - right), right / labelled
        overall = right.sum(axis=1) / labelled.sum(axis=1)
    return dict(mIoU=_mean(ious), mAcc=_mean(accuracies), aAcc=overall), dict(IoU=ious)


def _of_classes(kept: Arrays, weights: np.ndarray) -> tuple[Values, Values]:
    ranks, is_class = kept["ranks"], np.eye(int(kept["num_classes"]))[kept["labels"]]
    with np.errstate(invalid="ignore"):
        recalls = (weights * (ranks < 1)) @ is_class / (weights @ is_class)
    totals = weights.sum(axis=1)
    tops = {f"top-{k}": weights @ (ranks < k) / totals for k in (1, 5)}
    return tops | {"mean of the classes": _mean(recalls)}, dict(recall=recalls)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the (B,) means of (B, C) over the classes that are not NaN."""
    is_known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_known, values, 0).sum(axis=1) / is_known.sum(axis=1)


def _average_precisions(kept: Arrays, kind: str, weights: np.ndarray) -> np.ndarray:
    """Return COCO's (B, T, C) average precisions; NaN for a class without labelled objects."""
    images, labels, scores, is_true, counts = (
        kept[f"{kind}_{name}"] for name in ("images", "labels", "scores", "is_true", "counts")
    )
    totals = weights @ kept["totals"]
    values = np.full((len(weights), is_true.shape[1], totals.shape[1]), np.nan)
    for label in np.flatnonzero(kept["totals"].any(axis=0)):
        places = np.flatnonzero(labels == label)
        places = places[np.argsort(-scores[places], kind="stable")]
        step = max(1, _AT_ONCE // max(len(places), 1))
        for start in range(0, len(weights), step):
            part = slice(start, start + step)
            drawn = weights[part][:, images[places]].astype(np.float32)
            for threshold in range(is_true.shape[1]):
                values[part, threshold, label] = _average_precision(
                    drawn, is_true[places, threshold], counts[places, threshold], totals[part, label]
                )
    return values


def _average_precision(drawn: np.ndarray, is_true: np.ndarray, counts: np.ndarray, totals: np.ndarray) -> Any:
    """Return (B,) average precisions of one class.

    Args:
        drawn: (B, n) how often each object is in each sample, the highest score first.
        is_true: (n,) whether it is right.
        counts: (n,) whether it counts.
        totals: (B,) labelled objects.
    """
    right = np.cumsum(drawn * is_true, axis=1, dtype=np.float64)
    number = np.cumsum(drawn * counts, axis=1, dtype=np.float64)
    precision = right / np.maximum(number, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = np.full(len(drawn), np.nan)
    for sample in np.flatnonzero(totals):
        recall = right[sample] / totals[sample]
        places = np.searchsorted(recall, RECALLS, side="left")
        values[sample] = np.append(envelope[sample], 0.0)[places].mean()
    return values
