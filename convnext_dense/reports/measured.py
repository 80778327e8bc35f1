"""What the reports of all tasks have in common."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.reports.page import Section

NUM_BINS = 10  # of scores
NUM_WORST = 20  # images, or objects of a kind, that are shown


class Measured(NamedTuple):
    """What a model gets right and wrong.

    Attributes:
        numbers: Values of JSON.
        sections: Of the page.
        by_image: Arrays from which metrics of any of the images are computed, see ``comparing``.
        predictions: Results in COCO's format; None for a model without objects.
    """

    numbers: dict[str, Any]
    sections: Sequence[Section]
    by_image: Mapping[str, np.ndarray]
    predictions: Sequence[Mapping[str, Any]] | None = None


def or_none(value: float) -> float | None:
    """Return a number of an array as JSON has it; None where there is none."""
    return None if np.isnan(value) else float(value)


def mean_or_none(values: np.ndarray) -> float | None:
    """Return the mean of those that are not NaN; None where there is none."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def off_diagonal(counts: np.ndarray) -> np.ndarray:
    """Return a confusion matrix without what is right."""
    return counts - np.diag(np.diag(counts))


def findings_of_counts(rows: Sequence[Mapping[str, Any]], key: str, few: int, what: str) -> list[str]:
    """Return sentences about classes with too little, and about those with nothing; ``what`` is counted by ``key``."""
    rare = [row["class"] for row in rows if 0 < row[key] < few]
    absent = [row["class"] for row in rows if not row[key]]
    said = [f"Too few {what} to judge, fewer than {few}: {listed(rare)}."] if rare else []
    return said + ([f"Not in these images at all: {listed(absent)}."] if absent else [])


def counted(number: int, what: str) -> str:
    """Return a number of things, such as ``1 time`` and ``2 times``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Return names side by side, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def calibration(scores: np.ndarray, is_true: np.ndarray) -> list[dict[str, float]]:
    """Return for each tenth of scores how many objects have one, their mean, and how many of them are right."""
    bins = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    rows = []
    for place in range(NUM_BINS):
        is_in = bins == place
        if is_in.any():
            means = dict(score=float(scores[is_in].mean()), precision=float(is_true[is_in].mean()))
            rows.append(dict(objects=int(is_in.sum()), **means))
    return rows


def calibration_error(rows: Sequence[Mapping[str, float]]) -> float:
    """Return the mean difference between score and precision over all objects (ECE, arXiv 1706.04599)."""
    total = sum(row["objects"] for row in rows)
    return sum(row["objects"] * abs(row["score"] - row["precision"]) for row in rows) / max(total, 1)
