"""Pairs found objects with labelled ones, and says what is wrong with each that has no partner.

The kinds of errors and what their correction means are those of TIDE (arXiv 2008.08115, sections 2.2 and 2.3).
Letters: n found and m labelled objects of a whole data set.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

IOU = 0.5  # of a found object and its partner, at least
BACKGROUND_IOU = 0.1  # with every labelled object, at most, of what was found in the background
MAX_PER_IMAGE = 100

# What is wrong with an object.
NOTHING = 0
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(1, 7)
KINDS = {
    CLASSIFICATION: "classification",
    LOCALISATION: "localisation",
    BOTH: "both",
    DUPLICATE: "duplicate",
    BACKGROUND: "background",
    MISSED: "missed",
}


class Labelled(NamedTuple):
    """Objects of the annotations, those of an image side by side, in the order of the images.

    Attributes:
        images: (m,) positions of their images.
        labels: (m,) positions of their classes.
        boxes: (m, 4) x1, y1, x2, y2 in pixels.
        is_crowd: (m,) booleans, of regions in which objects are not told apart.
        rles: Their masks as COCO's run lengths; None without masks.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    is_crowd: np.ndarray
    rles: Sequence[Any] | None = None


class Found(NamedTuple):
    """Objects that a model found, those of an image side by side, in the order of the images.

    Attributes:
        images: (n,) positions of their images.
        labels: (n,) positions of their classes.
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        scores: (n,) in [0, 1].
        rles: Their masks as COCO's run lengths; None without masks.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    rles: Sequence[Any] | None = None

    def take(self, places: np.ndarray) -> "Found":
        """Return some of the objects."""
        rles = None if self.rles is None else [self.rles[place] for place in places]
        return Found(self.images[places], self.labels[places], self.boxes[places], self.scores[places], rles)


@dataclass(frozen=True)
class Matches:
    """Which objects are pairs, and what is wrong with the others.

    Attributes:
        labelled: All labelled objects.
        found: The found objects that count, by image, the highest score first.
        kinds: (n,) what is wrong with each found object; ``NOTHING`` for one that has a partner.
        is_ignored: (n,) booleans: it lies in a crowd, and counts neither for nor against the model.
        partners: (n,) the labelled object that it is, or, corrected, would be; -1 for none.
        is_corrected: (n,) booleans: corrected, it would be its partner's best; otherwise it would go.
        ious: (n,) IoU with its partner; 0 for none.
        is_found: (m,) booleans: it has a partner.
        is_missed: (m,) booleans: it has none, and no corrected error would be one. Never of crowds.
    """

    labelled: Labelled
    found: Found
    kinds: np.ndarray
    is_ignored: np.ndarray
    partners: np.ndarray
    is_corrected: np.ndarray
    ious: np.ndarray
    is_found: np.ndarray
    is_missed: np.ndarray

    @property
    def is_true(self) -> np.ndarray:
        """(n,) booleans: the found object is right."""
        return self.kinds == NOTHING

    @property
    def counts(self) -> np.ndarray:
        """(m,) booleans: the labelled object is one that has to be found."""
        return ~self.labelled.is_crowd


def match(
    labelled: Labelled,
    found: Found,
    *,
    by_mask: bool = False,
    iou: float = IOU,
    background_iou: float = BACKGROUND_IOU,
    max_per_image: int | None = None,
) -> Matches:
    """Pair each found object, the highest score first, with the labelled one of its class that overlaps it most.

    Args:
        labelled: Labelled objects.
        found: Found objects.
        by_mask: Whether overlap is that of masks; otherwise of boxes.
        iou: Overlap of a pair, at least.
        background_iou: Of what is in the background, at most.
        max_per_image: Found objects of an image that count, those with the highest scores; None for all.
    """
    order = np.lexsort((np.arange(len(found.scores)), -found.scores, found.images))
    rank = np.arange(len(order)) - np.searchsorted(found.images[order], found.images[order])
    found = found.take(order if max_per_image is None else order[rank < max_per_image])
    n, m = len(found.scores), len(labelled.labels)
    kinds, is_ignored = np.full(n, BACKGROUND), np.zeros(n, bool)
    partners, ious = np.full(n, -1), np.zeros(n)
    is_found = np.zeros(m, bool)
    for ours, theirs in _images(found.images, labelled.images):
        crowds = theirs[labelled.is_crowd[theirs]]
        truths = theirs[~labelled.is_crowd[theirs]]
        overlaps = _overlaps(found, labelled, ours, truths, by_mask=by_mask)
        is_class = found.labels[ours][:, None] == labelled.labels[truths]
        mates = _pair(np.where(is_class, overlaps, 0.0), iou)
        has_mate = mates >= 0
        in_crowd = _overlaps(found, labelled, ours, crowds, by_mask=by_mask, are_crowds=True) > iou
        in_crowd &= found.labels[ours][:, None] == labelled.labels[crowds]
        is_ignored[ours] = in_crowd.any(axis=1) & ~has_mate
        if not len(truths):
            continue
        used = np.zeros(len(truths), bool)
        used[mates[has_mate]] = True
        is_found[truths] = used
        found_kinds, nearest = _judge(overlaps, is_class, used, iou, background_iou)
        kinds[ours] = np.where(has_mate, NOTHING, found_kinds)
        nearest = np.where(has_mate, mates, nearest)
        partners[ours] = np.where(nearest >= 0, truths[nearest], -1)
        ious[ours] = np.where(nearest >= 0, overlaps[np.arange(len(ours)), nearest], 0.0)
    is_corrected = _corrected(found, np.where(is_ignored, BACKGROUND, kinds), partners, is_found)
    is_missed = ~is_found & ~labelled.is_crowd
    is_missed[partners[is_corrected]] = False
    return Matches(labelled, found, kinds, is_ignored, partners, is_corrected, ious, is_found, is_missed)


def _images(found: np.ndarray, labelled: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the found and the labelled objects of each image in which something was found."""
    for image in np.unique(found):
        yield (
            np.arange(*np.searchsorted(found, (image, image + 1))),
            np.arange(*np.searchsorted(labelled, (image, image + 1))),
        )


def _overlaps(
    found: Found,
    labelled: Labelled,
    ours: np.ndarray,
    theirs: np.ndarray,
    *,
    by_mask: bool,
    are_crowds: bool = False,
) -> np.ndarray:
    """Return IoUs; with a crowd, the share of the found object that lies in it."""
    from pycocotools import mask as masks

    if not len(ours) or not len(theirs):
        return np.zeros((len(ours), len(theirs)))
    if by_mask and found.rles is not None and labelled.rles is not None:
        given: list[Any] = [[found.rles[place] for place in ours], [labelled.rles[place] for place in theirs]]
    else:
        given = [_corner_and_size(objects.boxes[places]) for objects, places in ((found, ours), (labelled, theirs))]
    return np.asarray(masks.iou(*given, [are_crowds] * len(theirs)))


def _corner_and_size(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(np.float64)


def _pair(overlaps: np.ndarray, iou: float) -> np.ndarray:
    """Return the partner of each row in its order, the free column of the highest overlap; -1 for none."""
    free = overlaps.copy()
    mates = np.full(len(free), -1)
    if not free.size:
        return mates
    for row in np.flatnonzero(overlaps.max(axis=1) >= iou):
        column = int(free[row].argmax())
        if free[row, column] >= iou:
            mates[row] = column
            free[:, column] = 0
    return mates


def _judge(
    overlaps: np.ndarray, is_class: np.ndarray, used: np.ndarray, iou: float, background_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of error of every row, and the column that it is about, or -1, as if no row had a partner."""
    own, other, taken = overlaps * is_class, overlaps * ~is_class, overlaps * (is_class & used)
    best_own, best_other = own.max(axis=1), other.max(axis=1)
    is_near = (best_own >= background_iou) & (best_own <= iou)
    conditions = [is_near, best_other >= iou, taken.max(axis=1) >= iou, overlaps.max(axis=1) <= background_iou]
    kinds = np.select(conditions, [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
    nearest = np.select(conditions[:3], [own.argmax(axis=1), other.argmax(axis=1), taken.argmax(axis=1)], -1)
    return kinds, nearest


def _corrected(found: Found, kinds: np.ndarray, partners: np.ndarray, is_found: np.ndarray) -> np.ndarray:
    """Return which errors, corrected, would be the partner of an object that has none: the first of the best."""
    places = np.flatnonzero(np.isin(kinds, (CLASSIFICATION, LOCALISATION)) & (partners >= 0))
    places = places[~is_found[partners[places]]]
    places = places[np.lexsort((places, -found.scores[places]))]
    _, first = np.unique(partners[places], return_index=True)
    is_corrected = np.zeros(len(kinds), bool)
    is_corrected[places[first]] = True
    return is_corrected


class Thresholds(NamedTuple):
    """Which objects are right at several IoU thresholds, by COCO's rules; T thresholds.

    Attributes:
        found: The found objects that count, by image, the highest score first.
        is_true: (n, T) booleans: it has a partner.
        counts: (n, T) booleans: it counts for or against the model; it has a partner, or lies in no crowd.
    """

    found: Found
    is_true: np.ndarray
    counts: np.ndarray


def match_at(
    labelled: Labelled, found: Found, ious: Sequence[float], *, by_mask: bool, max_per_class: int = MAX_PER_IMAGE
) -> Thresholds:
    """Pair found and labelled objects of a class at several IoUs, see ``match``.

    Args:
        labelled: Labelled objects.
        found: Found objects.
        ious: T overlaps of a pair, at least.
        by_mask: Whether overlap is that of masks; otherwise of boxes.
        max_per_class: Found objects of a class in an image that count.
    """
    order = np.lexsort((-found.scores, found.labels, found.images))
    groups = found.images[order] * (found.labels.max(initial=0) + 1) + found.labels[order]
    kept = order[np.arange(len(order)) - np.searchsorted(groups, groups) < max_per_class]
    found = found.take(kept[np.lexsort((kept, -found.scores[kept], found.images[kept]))])
    is_true = np.zeros((len(found.scores), len(ious)), bool)
    counts = np.ones_like(is_true)
    for ours, theirs in _images(found.images, labelled.images):
        is_class = found.labels[ours][:, None] == labelled.labels[theirs]
        is_crowd = labelled.is_crowd[theirs]
        truths, crowds = theirs[~is_crowd], theirs[is_crowd]
        overlaps = _overlaps(found, labelled, ours, truths, by_mask=by_mask) * is_class[:, ~is_crowd]
        inside = _overlaps(found, labelled, ours, crowds, by_mask=by_mask, are_crowds=True) * is_class[:, is_crowd]
        for place, iou in enumerate(ious):
            is_true[ours, place] = _pair(overlaps, iou) >= 0
            if len(crowds):
                counts[ours, place] = is_true[ours, place] | (inside.max(axis=1) < iou)
    return Thresholds(found, is_true, counts)


class Points(NamedTuple):
    """What an average precision is computed from.

    Attributes:
        labels: (n,) classes of found objects.
        scores: (n,) their scores.
        is_true: (n,) whether they are right.
        totals: (C,) labelled objects of each class.
    """

    labels: np.ndarray
    scores: np.ndarray
    is_true: np.ndarray
    totals: np.ndarray


def points(matches: Matches, num_classes: int, *, corrects: int = NOTHING) -> Points:
    """Return what counts, with one kind of error corrected, or none."""
    found, labelled = matches.found, matches.labelled
    kept = ~matches.is_ignored | matches.is_true
    labels, is_true = found.labels.copy(), matches.is_true.copy()
    totals = np.bincount(labelled.labels[matches.counts], minlength=num_classes)
    if corrects == MISSED:
        totals = totals - np.bincount(labelled.labels[matches.is_missed], minlength=num_classes)
    elif corrects != NOTHING:
        is_kind = matches.kinds == corrects
        right = is_kind & matches.is_corrected
        kept = (kept & ~is_kind) | right
        labels[right] = labelled.labels[matches.partners[right]]
        is_true |= right
    return Points(labels[kept], found.scores[kept], is_true[kept], totals)


RECALLS = np.linspace(0, 1, 101)


def average_precision(scores: np.ndarray, is_true: np.ndarray, total: int) -> float:
    """Return COCO's average precision: the mean at 101 recalls; NaN where there is nothing to find."""
    if total == 0:
        return float("nan")
    precision, recall = precision_recall(scores, is_true, total)
    places = np.searchsorted(recall, RECALLS, side="left")
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.minimum(places, len(precision))].mean())


def precision_recall(scores: np.ndarray, is_true: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the precision and the recall of the objects from each score, the highest first."""
    right = np.cumsum(is_true[np.argsort(-scores, kind="stable")])
    return right / np.arange(1, len(right) + 1), right / max(total, 1)


def class_precisions(given: Points) -> np.ndarray:
    """Return the (C,) average precisions; NaN for a class without labelled objects."""
    order = np.argsort(given.labels, kind="stable")
    limits = np.searchsorted(given.labels[order], np.arange(len(given.totals) + 1))
    parts = (order[start:stop] for start, stop in itertools.pairwise(limits))
    return np.array(
        [
            average_precision(given.scores[part], given.is_true[part], int(total))
            for part, total in zip(parts, given.totals, strict=True)
        ]
    )


def mean_precision(given: Points) -> float:
    """Return the mean of the classes' average precisions; 1 where there is nothing to find."""
    return float(np.nanmean(class_precisions(given))) if given.totals.any() else 1.0


def error_costs(matches: Matches, num_classes: int) -> dict[int, float]:
    """Return by how much the average precision would rise if all errors of a kind were corrected, for each kind."""
    before = mean_precision(points(matches, num_classes))
    return {kind: max(mean_precision(points(matches, num_classes, corrects=kind)) - before, 0.0) for kind in KINDS}
