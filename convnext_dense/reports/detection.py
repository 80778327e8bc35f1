"""The numbers of a detector's report.

Letters: C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from convnext_dense.evaluation.coco_evaluation import MAX_DETECTIONS, Figures, items_of
from convnext_dense.inference import Detections
from convnext_dense.reports.gathering import ObjectData
from convnext_dense.reports.matching import (
    KINDS,
    Found,
    Matches,
    Points,
    error_costs,
    match,
    points,
    precision_recall,
)
from convnext_dense.reports.measured import calibration, calibration_error
from convnext_dense.reports.objects import (
    best_score,
    confusion,
    error_rows,
    size_shares,
    suspects,
    worst_images,
)

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_LIMITS = (1, 10, MAX_DETECTIONS)
_CURVE = 200  # points of a curve
# COCO's twelve numbers, in the order of items_of.
_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
TWELVE = dict(zip(_NAMES, items_of(_LIMITS).values(), strict=False))


def to_coco_results(results: Iterable[Detections], data: ObjectData) -> list[dict[str, Any]]:
    """Return what was found in all images in COCO's result format, with the ids of the annotations."""
    items = []
    for image_id, found in zip(data.ids, results, strict=True):
        for item in found.to_coco(image_id):
            del item["category_name"]
            items.append(item | dict(category_id=data.category_ids[item["category_id"] - 1]))
    return items


def measure_objects(data: ObjectData, found: Found, results: Sequence[Mapping[str, Any]]) -> tuple[Any, Matches]:
    """Return the numbers of a report as values of JSON, and the pairs that they come from.

    Args:
        data: Labelled images.
        found: What was found in them.
        results: The same in COCO's format.
    """
    num_classes = len(data.class_names)
    has_masks = found.rles is not None and data.truth.num_without_mask < len(data.truth.objects)
    tables = {
        kind: data.truth.evaluate(results, kind, iou_thrs=THRESHOLDS, limits=_LIMITS)
        for kind in ("bbox", *(["segm"] if has_masks else []))
    }
    matches = match(data.labelled, found)
    given = points(matches, num_classes)
    best = best_score(given.scores, given.is_true, int(given.totals.sum()))
    counts = confusion(matches, num_classes, score_thr=best.score if best else 0.5)
    costs = error_costs(matches, num_classes)
    rows = calibration(given.scores, given.is_true)
    names = [*data.class_names, "background"]
    report = dict(
        task="detection",
        classes=list(data.class_names),
        images=len(data.paths),
        objects=int(matches.counts.sum()),
        crowds=int(data.labelled.is_crowd.sum()),
        found=len(found.scores),
        ap={kind: _twelve(table) for kind, table in tables.items()},
        by_class=_by_class(data, given, tables),
        curves=[_curve(given, label) for label in range(num_classes)],
        best_score=best._asdict() if best else None,
        confusion=dict(names=names, counts=counts.tolist(), score=best.score if best else 0.5, iou=0.5),
        errors=error_rows(matches, costs),
        missed_by_size=size_shares(matches, num_classes, data.areas),
        calibration=dict(bins=rows, error=calibration_error(rows)),
        worst_images=[
            dict(image=str(data.paths[image]), cost=cost, **_errors_in(matches, image))
            for image, cost in worst_images(matches, len(data.paths), num_classes)
        ],
        suspects=_suspects(data, matches),
    )
    return report, matches


def _twelve(table: Figures) -> dict[str, float | None]:
    """Return COCO's twelve numbers; None where there is no object of that size."""
    return {name: _or_none(table[item]) for name, item in TWELVE.items()}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) or value < 0 else float(value)


def _by_class(data: ObjectData, given: Points, tables: Mapping[str, Figures]) -> list[dict[str, Any]]:
    rows = []
    for label, name in enumerate(data.class_names):
        of_class = given.labels == label
        row: dict[str, Any] = {"class": name, "objects": int(given.totals[label]), "found": int(of_class.sum())}
        for kind, table in tables.items():
            for item in ("AP", "AP50", "APs", "APm", "APl"):
                value = table.of_item(TWELVE[item], label)
                row[f"{kind} {item}"] = _or_none(value)
        best = best_score(given.scores[of_class], given.is_true[of_class], int(given.totals[label]))
        row["best score"], row["F1"] = (best.score, best.f1) if best else (None, None)
        rows.append(row)
    return rows


def _curve(given: Points, label: int) -> dict[str, Any]:
    """Return precision and recall of a class from falling scores, at no more than ``_CURVE`` places."""
    of_class = given.labels == label
    scores, total = given.scores[of_class], int(given.totals[label])
    if not len(scores) or not total:
        return dict(score=[], precision=[], recall=[])
    precision, recall = precision_recall(scores, given.is_true[of_class], total)
    places = np.unique(np.linspace(0, len(scores) - 1, _CURVE).round().astype(int))
    values = (np.sort(scores)[::-1], precision, recall)
    return dict(zip(("score", "precision", "recall"), (_rounded(one[places]) for one in values), strict=True))


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def _errors_in(matches: Matches, image: int) -> dict[str, Any]:
    """Return how many errors of each kind an image has, of those that cost anything."""
    kinds = matches.kinds[(matches.found.images == image) & ~matches.is_ignored]
    counts = {name: int((kinds == kind).sum()) for kind, name in KINDS.items()}
    counts["missed"] = int((matches.is_missed & (matches.labelled.images == image)).sum())
    return dict(errors={name: number for name, number in counts.items() if number})


def _suspects(data: ObjectData, matches: Matches) -> list[dict[str, Any]]:
    rows = []
    for one in suspects(matches, len(data.class_names)):
        found, labelled = matches.found, matches.labelled
        row: dict[str, Any] = dict(kind=one.kind, image=str(data.paths[one.image]), evidence=one.evidence)
        row |= dict(model=data.class_names[found.labels[one.found]], score=float(found.scores[one.found]))
        row["model_box"] = _rounded(found.boxes[one.found])
        if one.labelled is not None:
            row["label"] = data.class_names[labelled.labels[one.labelled]]
            row["label_box"] = _rounded(labelled.boxes[one.labelled])
        rows.append(row)
    return rows
