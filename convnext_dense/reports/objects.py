"""What the pairs of found and labelled objects say about a detector, and about the labels.

Letters: n found and m labelled objects of a data set, C classes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.reports.matching import (
    BACKGROUND,
    CLASSIFICATION,
    KINDS,
    LOCALISATION,
    MISSED,
    NOTHING,
    Matches,
    average_precision,
    class_precisions,
    mean_precision,
    points,
    precision_recall,
)

NUM_SUSPECTS = 20  # of each kind
MIN_EVIDENCE = 0.3
_EXACT = 5  # times as many images are looked at as are asked for
# Areas in pixels from which objects are medium and large, as COCO has them.
MEDIUM, LARGE = 32**2, 96**2
SIZES = ("small", "medium", "large")


class BestScore(NamedTuple):
    """The score from which objects count, for the highest F1 = 2 P R / (P + R).

    Attributes:
        score: The threshold.
        f1: At the threshold.
        precision: At the threshold.
        recall: At the threshold.
    """

    score: float
    f1: float
    precision: float
    recall: float


def best_score(scores: np.ndarray, is_true: np.ndarray, total: int) -> BestScore | None:
    """Return the threshold of the highest F1; None where nothing is found or there is nothing to find."""
    if total == 0 or not len(scores):
        return None
    precision, recall = precision_recall(scores, is_true, total)
    ordered = np.sort(scores)[::-1]
    is_last = np.append(ordered[1:] != ordered[:-1], True)  # of those with the same score
    f1 = np.where(is_last, 2 * precision * recall / np.maximum(precision + recall, 1e-12), -1.0)
    place = int(f1.argmax())
    return BestScore(float(ordered[place]), float(f1[place]), float(precision[place]), float(recall[place]))


def confusion(matches: Matches, num_classes: int, *, score_thr: float) -> np.ndarray:
    """Count how labelled objects were classified.

    A labelled object is in the column of its partner; without one, of the most certain object of another class that
    overlaps it enough. Everything else that was found is in the row of the background.

    Returns:
        (C + 1, C + 1): rows are labelled, columns found classes; the last of both is the background.
    """
    found, labelled = matches.found, matches.labelled
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    is_shown = found.scores >= score_thr
    is_free = matches.counts.copy()
    is_used = np.zeros(len(found.scores), bool)
    for kind in (NOTHING, CLASSIFICATION):
        places = np.flatnonzero(is_shown & (matches.kinds == kind))
        places = places[np.argsort(-found.scores[places], kind="stable")]
        places = places[is_free[matches.partners[places]]]
        partners, first = np.unique(matches.partners[places], return_index=True)
        is_used[places[first]], is_free[partners] = True, False
        np.add.at(counts, (labelled.labels[partners], found.labels[places[first]]), 1)
    np.add.at(counts, (labelled.labels[is_free], num_classes), 1)
    np.add.at(counts, (num_classes, found.labels[is_shown & ~is_used & ~matches.is_ignored]), 1)
    return counts


def worst_images(matches: Matches, num_images: int, num_classes: int, *, number: int = 20) -> list[tuple[int, float]]:
    """Return the images whose errors cost most, with their costs, the worst first.

    The cost is by how much the mean average precision would rise if all errors of the image were corrected: if what is
    wrong had not been found, and what was not found had not been there. It is computed for the images that seem worst
    when each error is taken by itself.
    """
    given = points(matches, num_classes)
    images = matches.found.images[~matches.is_ignored | matches.is_true]
    lost = np.flatnonzero(matches.counts & ~matches.is_found)
    parts: dict[int, tuple[np.ndarray, ...]] = {}
    seeming = np.zeros(num_images)
    for label in np.flatnonzero(given.totals).tolist():
        of_class = np.flatnonzero(given.labels == label)
        of_class = of_class[np.argsort(-given.scores[of_class], kind="stable")]
        missed = matches.labelled.images[lost[matches.labelled.labels[lost] == label]]
        parts[label] = (given.scores[of_class], given.is_true[of_class], images[of_class], missed)
        _, is_true, at, _ = parts[label]
        right, rank = np.cumsum(is_true), np.arange(1, len(is_true) + 1)
        gains = np.where(is_true, right / (rank * np.maximum(rank - 1, 1)), 0.0)  # of precision, one rank up
        gains = gains[::-1].cumsum()[::-1]
        total = int(given.totals[label])
        np.add.at(seeming, at[~is_true], gains[~is_true] / total)
        np.add.at(seeming, missed, (right / rank)[is_true].sum() / total**2)
    chosen = np.argsort(-seeming, kind="stable")[: _EXACT * number]
    costs = {image: _cost(image, parts, given.totals) for image in chosen[seeming[chosen] > 0].tolist()}
    return sorted(costs.items(), key=lambda item: (-item[1], item[0]))[:number]


def _cost(image: int, parts: Mapping[int, tuple[np.ndarray, ...]], totals: np.ndarray) -> float:
    cost = 0.0
    for label, (scores, is_true, at, missed) in parts.items():
        stays = is_true | (at != image)
        num_missed, total = int((missed == image).sum()), int(totals[label])
        if stays.all() and not num_missed:
            continue
        before = average_precision(scores, is_true, total)
        left = total - num_missed
        cost += (average_precision(scores[stays], is_true[stays], left) if left else 1.0) - before
    return cost / max(len(parts), 1)


class Suspect(NamedTuple):
    """A label that the model contradicts.

    Attributes:
        kind: ``'class'``, ``'missing'`` or ``'box'``.
        image: Position of the image.
        evidence: How sure and how unusual the contradiction is, in [0, 1].
        found: Position of the found object.
        labelled: Position of the labelled object; None for a missing label.
    """

    kind: str
    image: int
    evidence: float
    found: int
    labelled: int | None


def suspects(matches: Matches, num_classes: int) -> list[Suspect]:
    """Return the labels that are most likely wrong, the most suspicious of each kind first, with some evidence.

    ``'class'``: the model is sure of another class at this place, and not of the label's; it counts less where it
    often takes the label's class for the other one, which is then its own fault. ``'missing'``: it is sure of an object
    where none is labelled. ``'box'``: it is sure of the class, in a box that overlaps the label's by less than half.
    """
    found, labelled = matches.found, matches.labelled
    own = np.zeros(len(labelled.labels))  # the score of the label's own class at its place
    of_own = np.isin(matches.kinds, (NOTHING, LOCALISATION)) & (matches.partners >= 0)
    np.maximum.at(own, matches.partners[of_own], found.scores[of_own])
    shares = _confused_shares(matches, num_classes)
    chosen: list[Suspect] = []
    for kind, name in ((CLASSIFICATION, "class"), (BACKGROUND, "missing"), (LOCALISATION, "box")):
        places = np.flatnonzero((matches.kinds == kind) & ~matches.is_ignored)
        evidence = found.scores[places].astype(float)
        partners = matches.partners[places]
        if kind == CLASSIFICATION:
            usual = shares[labelled.labels[partners], found.labels[places]]
            evidence = (evidence - own[partners]).clip(0) * (1 - usual)
        elif kind == LOCALISATION:
            is_lost = ~matches.is_found[partners]
            evidence = evidence * is_lost * (1 - matches.ious[places])
        order = np.argsort(-evidence, kind="stable")
        chosen += _first_of_each(name, places[order], partners[order], evidence[order], found.images)
    return chosen


def _confused_shares(matches: Matches, num_classes: int) -> np.ndarray:
    """Return (C, C), the share of a class's objects that are taken for another, at the best threshold of all."""
    given = points(matches, num_classes)
    best = best_score(given.scores, given.is_true, int(given.totals.sum()))
    counts = confusion(matches, num_classes, score_thr=best.score if best else 0.5)[:-1]
    return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[:, :-1]


def _first_of_each(
    name: str, places: np.ndarray, partners: np.ndarray, evidence: np.ndarray, images: np.ndarray
) -> list[Suspect]:
    chosen: list[Suspect] = []
    seen: set[int] = set()
    for place, partner, value in zip(places.tolist(), partners.tolist(), evidence.tolist(), strict=True):
        if value < MIN_EVIDENCE or len(chosen) == NUM_SUSPECTS:
            break
        if partner >= 0 and partner in seen:
            continue
        seen.add(partner)
        chosen.append(Suspect(name, int(images[place]), value, place, None if partner < 0 else partner))
    return chosen


def size_shares(matches: Matches, num_classes: int, areas: np.ndarray) -> dict[str, float]:
    """Return by how much the mean average precision would rise if no small, medium or large object had been missed.

    Args:
        matches: Pairs.
        num_classes: C.
        areas: (m,) of the labelled objects, in pixels.
    """
    given = points(matches, num_classes)
    before = mean_precision(given)
    sizes = np.digitize(areas, (MEDIUM, LARGE))
    rises = {}
    for number, name in enumerate(SIZES):
        missed = matches.labelled.labels[matches.is_missed & (sizes == number)]
        totals = given.totals - np.bincount(missed, minlength=num_classes)
        after = class_precisions(given._replace(totals=totals))
        after = np.where((totals == 0) & (given.totals > 0), 1.0, after)
        rises[name] = float(max(np.nanmean(after) - before, 0.0)) if given.totals.any() else 0.0
    return rises


def error_rows(matches: Matches, costs: dict[int, float]) -> list[dict[str, Any]]:
    """Return one row per kind of error: its name, how many there are, and what they cost."""
    rows = []
    for kind, name in KINDS.items():
        wrong = matches.is_missed if kind == MISSED else (matches.kinds == kind) & ~matches.is_ignored
        rows.append(dict(error=name, number=int(wrong.sum()), cost=costs[kind]))
    return rows
