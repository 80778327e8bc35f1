"""The exported model beside PyTorch: on single images before anything is written, and by the metric of the config.

Letters: n objects in an image, H and W its height and width in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from convnext_dense.errors import UserError

# What float32 may differ by: boxes in pixels of the image, scores, masks in intersection over union, and the share of
# the pixels of label maps that are equal.
BOX_PIXELS = 0.5
SCORE = 1e-3
MASK_IOU = 0.99
EQUAL_PIXELS = 0.999
METRIC = 0.001  # AP, mIoU or accuracy on a whole data set

Result = Mapping[str, Any]


def compare(
    references: Sequence[Result],
    exported: Sequence[Result],
    names: Sequence[Any],
    *,
    score_threshold: float = 0.0,
    max_objects: int | None = None,
) -> dict[str, float]:
    """Compare results of PyTorch and of an exported model on the same images.

    Args:
        references: Of ``inference.Predictor``.
        exported: Of ``runtime.ExportedModel``, on the same images.
        names: Of the images, for the message.
        score_threshold: Objects are kept above it.
        max_objects: Most objects that are kept of an image; None for all.

    Returns:
        The largest differences, by name.

    Raises:
        UserError: One is larger than float32 explains.
    """
    if "label_map" in references[0]:
        compared: Callable[[Result, Result], _Found] = _compare_label_maps
    elif "boxes" in references[0]:
        compared = partial(_compare_objects, score_threshold=score_threshold, max_objects=max_objects)
    else:
        compared = _compare_classes
    worst: dict[str, float] = {}
    for reference, result, name in zip(references, exported, names, strict=True):
        for what, (value, limit, is_floor) in compared(reference, result).items():
            if value < limit if is_floor else value > limit:
                raise UserError(
                    f"The exported model differs from PyTorch on {name}: {what} is {value:.4g}, and may be "
                    f"{'no less' if is_floor else 'no more'} than {limit:g}. Nothing was written."
                )
            worst[what] = min(worst.get(what, value), value) if is_floor else max(worst.get(what, value), value)
    return {what: float(value) for what, value in worst.items()}


_Found = dict[str, tuple[float, float, bool]]


def _compare_label_maps(reference: Result, result: Result) -> _Found:
    equal = float((reference["label_map"] == result["label_map"]).mean())
    return {"share of equal pixels": (equal, EQUAL_PIXELS, True)}


def _compare_classes(reference: Result, result: Result) -> _Found:
    scores = dict(zip(result["labels"].tolist(), result["scores"].tolist(), strict=True))
    lowest = min(scores.values(), default=0.0)
    pairs = zip(reference["labels"].tolist(), reference["scores"].tolist(), strict=True)
    return {
        "difference of scores": (max(abs(scores.get(label, lowest) - score) for label, score in pairs), SCORE, False)
    }


def _compare_objects(reference: Result, result: Result, *, score_threshold: float, max_objects: int | None) -> _Found:
    """Compare objects with the nearest one of the same class; one that is hardly kept may be in one result alone."""
    found: _Found = {"difference of scores": (0.0, SCORE, False), "pixels between boxes": (0.0, BOX_PIXELS, False)}
    if "masks" in reference:
        found["overlap of masks"] = (1.0, MASK_IOU, True)
    pairs, alone = match_objects(reference, result)
    full = [scores["scores"] for scores in (reference, result) if len(scores["scores"]) == max_objects]
    lowest = max([score_threshold, *(float(scores.min()) for scores in full)])
    unexplained = [
        (side, number)
        for side, number in alone
        if (reference, result)[side]["scores"][number] > lowest + SCORE
        and not any(_is_tie((reference, result), (side, number), other) for other in alone)
    ]
    found["number of objects in one of the results alone"] = (float(len(unexplained)), 0.0, False)
    if not pairs:
        return found
    ours, theirs = (np.array(numbers) for numbers in zip(*pairs, strict=True))
    _largest(found, "difference of scores", np.abs(reference["scores"][ours] - result["scores"][theirs]).max())
    _largest(found, "pixels between boxes", np.abs(reference["boxes"][ours] - result["boxes"][theirs]).max())
    if "masks" in reference:
        found["overlap of masks"] = (
            min(_overlap(reference["masks"][one], result["masks"][other]) for one, other in pairs),
            MASK_IOU,
            True,
        )
    return found


def _is_tie(results: Sequence[Result], one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two overlapping objects, one of each result, are equally certain: either may suppress the other."""
    if one[0] == other[0]:
        return False
    (box, label, score), (other_box, other_label, other_score) = (
        [results[side][name][number] for name in ("boxes", "labels", "scores")] for side, number in (one, other)
    )
    overlap = np.minimum(box[2:], other_box[2:]) - np.maximum(box[:2], other_box[:2])
    return label == other_label and abs(score - other_score) <= SCORE and bool((overlap > 0).all())


def _largest(found: _Found, name: str, value: float) -> None:
    found[name] = (float(value), *found[name][1:])


def match_objects(reference: Result, result: Result) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pair the objects of two results.

    Returns:
        Pairs of positions, and the objects without a partner as (0 for the first result or 1, position).
    """
    pairs, left = [], set(range(len(result["labels"])))
    alone = []
    for number, (box, label, score) in enumerate(
        zip(reference["boxes"], reference["labels"], reference["scores"], strict=True)
    ):
        candidates = [other for other in left if result["labels"][other] == label]
        if candidates:
            distances = [
                np.abs(result["boxes"][other] - box).max() + abs(result["scores"][other] - score)
                for other in candidates
            ]
            nearest = candidates[int(np.argmin(distances))]
            if np.abs(result["boxes"][nearest] - box).max() <= max(2 * BOX_PIXELS, 0.02 * _side(box)):
                pairs.append((number, nearest))
                left.discard(nearest)
                continue
        alone.append((0, number))
    return pairs, alone + [(1, number) for number in sorted(left)]


def _side(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], box[3] - box[1]))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two masks; a pixel at the edge of a small one may go either way."""
    union = np.count_nonzero(one | other)
    differing = np.count_nonzero(one ^ other)
    return 1.0 if differing <= 1 else 1 - differing / union


# Metrics that count, the first one that a data set has.
MAIN_METRICS = ("coco/segm_mAP", "coco/bbox_mAP", "mIoU", "accuracy/top1")


def losses(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return by how much the main metrics fell, as shares of 1."""
    return {
        name: (before[name] - after[name]) / (100 if name == "mIoU" else 1)
        for name in MAIN_METRICS
        if name in before and name in after
    }
