"""The numbers of a classifier's report.

Letters: N images, C classes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.reports.measured import (
    NUM_WORST,
    calibration,
    calibration_error,
    mean_or_none,
    off_diagonal,
    or_none,
)

SURE = 0.95  # from which the model is sure of another class than the labelled one
_SMALLEST = 1e-12  # probability, for a loss that is finite
_NUM_PAIRS = 20  # of classes, that are listed


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
    rows = []
    for label, found in zip(labels, results, strict=True):
        probs = np.zeros(len(found.class_names))
        probs[found.labels] = found.scores
        rank = (probs > probs[label]).sum() + (probs[:label] == probs[label]).sum()
        best = int(probs.argmax())
        rows.append((label, rank, probs[label], best, probs[best]))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Scored(*columns)


def measure_classes(scored: Scored, class_names: Sequence[str], paths: Sequence[Path]) -> dict[str, Any]:
    """Return the numbers of a report as values of JSON."""
    num_classes = len(class_names)
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (scored.labels, scored.best), 1)
    losses = -np.log(np.maximum(scored.probs, _SMALLEST))
    right, labelled, found = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
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
        confusion=dict(names=list(class_names), counts=counts.tolist()),
        pairs=_pairs(counts, class_names),
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


def _pairs(counts: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return which classes are taken for which, the most frequent pair first."""
    off = off_diagonal(counts)
    order = np.argsort(-off, axis=None, kind="stable")[:_NUM_PAIRS]
    rows, columns = np.unravel_index(order, off.shape)
    return [
        dict(label=names[row], found=names[column], images=int(off[row, column]), of=int(counts[row].sum()))
        for row, column in zip(rows, columns, strict=True)
        if off[row, column]
    ]
