"""The numbers of a classifier's report.

Letters: N images, C classes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.errors import UserError
from convnext_dense.reports.measured import (
    NUM_WORST,
    calibration,
    calibration_error,
    mean_or_none,
    or_none,
)

SURE = 0.95  # from which the model is sure of another class than the labelled one
_SMALLEST = 1e-12  # probability, for a loss that is finite
_NUM_PAIRS = 20  # of classes, that are listed
_MAX_CLASSES = 2000  # whose confusion matrix is kept


class Scored(NamedTuple):
    """What a classifier says about labelled images.

    Attributes:
        labels: (N,) labelled classes.
        ranks: (N,) places of the labelled class among the most probable ones, from 0.
        probs: (N,) probabilities of the labelled class.
        best: (N,) most probable classes.
        best_probs: (N,) their probabilities.
    """

    labels: np.ndarray
    ranks: np.ndarray
    probs: np.ndarray
    best: np.ndarray
    best_probs: np.ndarray


def score_images(labels: Sequence[int], results: Iterable[Any]) -> Scored:
    """Compare results, which have all C classes, with the labels of their images; the first of equal classes wins."""
    rows: list[tuple[Any, ...]] = []
    for label, found in zip(labels, results, strict=True):
        probs = np.zeros(len(found.class_names))
        probs[found.labels] = found.scores
        if not np.isfinite(probs).all():
            raise UserError(
                f"What the model gives for image {len(rows) + 1} is no number (NaN): its weights are not whole."
            )
        rank = (probs > probs[label]).sum() + (probs[:label] == probs[label]).sum()
        best = int(probs.argmax())
        rows.append((label, rank, probs[label], best, probs[best]))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Scored(*columns)


def measure_classes(scored: Scored, class_names: Sequence[str], paths: Sequence[Path]) -> dict[str, Any]:
    """Return the numbers of a report as values of JSON."""
    num_classes = len(class_names)
    losses = -np.log(np.maximum(scored.probs, _SMALLEST))
    right, labelled, found = (
        np.bincount(labels, minlength=num_classes)
        for labels in (scored.labels[scored.ranks == 0], scored.labels, scored.best)
    )
    with np.errstate(invalid="ignore"):
        recall, precision = right / labelled, right / found
        f1 = 2 * right / (labelled + found)
    rows = calibration(scored.best_probs, scored.ranks == 0)
    worst = np.argsort(-losses, kind="stable")[:NUM_WORST]
    return dict(
        task="classification",
        classes=list(class_names),
        images=len(paths),
        means=dict(
            top1=float((scored.ranks < 1).mean()),
            top5=float((scored.ranks < 5).mean()),
            class_accuracy=mean_or_none(recall),
            log_loss=float(losses.mean()),
        ),
        by_class=[
            {"class": name, "images": int(labelled[label]), "found": int(found[label])}
            | dict(recall=or_none(recall[label]), precision=or_none(precision[label]), F1=or_none(f1[label]))
            for label, name in enumerate(class_names)
        ],
        confusion=_confusion(scored, class_names),
        pairs=_pairs(scored, labelled, class_names),
        calibration=dict(bins=rows, error=calibration_error(rows)),
        worst_images=[
            dict(
                image=str(paths[place]),
                loss=float(losses[place]),
                label=class_names[scored.labels[place]],
                label_score=float(scored.probs[place]),
                model=class_names[scored.best[place]],
                score=float(scored.best_probs[place]),
            )
            for place in worst
        ],
        sure_and_wrong=int(((scored.ranks > 0) & (scored.best_probs >= SURE)).sum()),
    )


def _confusion(scored: Scored, names: Sequence[str]) -> dict[str, Any] | None:
    """Return how often each class is taken for each, rows being labelled ones; None of too many classes."""
    if len(names) > _MAX_CLASSES:
        return None
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (scored.labels, scored.best), 1)
    return dict(names=list(names), counts=counts.tolist())


def _pairs(scored: Scored, labelled: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return which classes are taken for which, the most frequent pair first."""
    is_wrong = scored.labels != scored.best
    wrong = np.stack([scored.labels[is_wrong], scored.best[is_wrong]], axis=1)
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    return [
        dict(label=names[label], found=names[found], images=int(counts[place]), of=int(labelled[label]))
        for place in np.argsort(-counts, kind="stable")[:_NUM_PAIRS]
        for label, found in [pairs[place]]
    ]
