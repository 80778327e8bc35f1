"""The numbers of a segmenter's report.

Letters: C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnext_dense.reports.measured import NUM_WORST, mean_or_none, or_none
from convnext_dense.reports.pixels import DILATION_RATIO, PixelCounts, boundary_iou, image_costs, shares

_NAMES = {"IoU": "IoU", "Acc": "accuracy", "Precision": "precision", "Dice": "Dice", "boundary": "boundary IoU"}


def measure_pixels(counts: PixelCounts, class_names: Sequence[str], paths: Sequence[Path]) -> dict[str, Any]:
    """Return the numbers of a report as values of JSON."""
    values = shares(counts.images.sum(axis=0)) | {"boundary": boundary_iou(counts)}
    labelled = counts.images[:, 2]
    near_wrong, wrong, near, _ = counts.near.tolist()
    total = int(labelled.sum())
    costs = image_costs(counts.images)
    worst = [place for place in np.argsort(-costs, kind="stable")[:NUM_WORST] if costs[place] > 0]
    means = {f"m{key}": mean_or_none(values[key]) for key in ("IoU", "Acc", "Dice")}
    return dict(
        task="segmentation",
        classes=list(class_names),
        images=len(paths),
        pixels=total,
        unlabelled=counts.unlabelled,
        means=means
        | dict(
            aAcc=float(np.trace(counts.confusion) / total) if total else None,
            boundary_mIoU=mean_or_none(values["boundary"]),
        ),
        by_class=[
            {"class": name, "images": int((labelled[:, label] > 0).sum()), "pixels": int(labelled[:, label].sum())}
            | {_NAMES[key]: or_none(value[label]) for key, value in values.items()}
            for label, name in enumerate(class_names)
        ],
        confusion=dict(names=list(class_names), counts=counts.confusion[:-1].tolist()),
        near_boundary=dict(distance=DILATION_RATIO, wrong_and_near=near_wrong, wrong=wrong, near=near),
        worst_images=[
            dict(image=str(paths[place]), cost=float(costs[place]), wrong=_wrong(counts.images[place]))
            for place in worst
        ],
        half_of_errors=_half_of_errors(counts.images),
    )


def _wrong(sums: np.ndarray) -> float | None:
    """Return the share of an image's labelled pixels that are wrong; ``sums`` is (3, C)."""
    right, _, labelled = sums.sum(axis=1).tolist()
    return 1 - right / labelled if labelled else None


def _half_of_errors(images: np.ndarray) -> int:
    """Return how few images have half of all wrong pixels."""
    wrong = np.sort((images[:, 2] - images[:, 0]).sum(axis=1))[::-1].cumsum()
    return int(np.searchsorted(wrong, wrong[-1] / 2) + 1) if wrong[-1] else 0
