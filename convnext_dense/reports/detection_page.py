"""A detector's report as sections of a page."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convnext_dense.inference import LoadedModel
from convnext_dense.reports import figures
from convnext_dense.reports.gathering import ObjectData
from convnext_dense.reports.matching import NOTHING, Matches
from convnext_dense.reports.measured import counted, findings_of_counts, off_diagonal
from convnext_dense.reports.page import Picture, Section, as_picture, number
from convnext_dense.visualization import beside, draw_objects, enlarge, found_objects, write_caption

_SIDE = 280  # pixels of a picture
_SUSPECT_SIDE = 200
_AROUND = 0.6  # of an object's size, shown on each side of it
_KINDS = {"bbox": "boxes", "segm": "masks"}
_SUSPECTS = {
    "class": "Another class?",
    "missing": "Not labelled?",
    "box": "Another box?",
}
_WORDS = {
    "classification": "objects that were given a wrong class",
    "localisation": "boxes that are not exact enough",
    "both": "objects with a wrong class in a wrong place",
    "duplicate": "objects that were found twice",
    "background": "things that are not there",
    "missed": "objects that were not found",
}
_HINTS = {
    "classification": "look at the confusion matrix and at the labels of these classes",
    "localisation": "train longer, at a larger image size, or with Cascade R-CNN",
    "both": "look at the worst images",
    "duplicate": "lower the IoU threshold of the NMS (test_cfg.rcnn.nms.iou_threshold)",
    "background": "look for objects that are not labelled, and add images without objects",
    "missed": "look at their sizes below, and at the labels",
}
_SIZE_HINTS = {
    "small": "try a larger image size, or tiles",
    "medium": "train longer",
    "large": "try a smaller image size, or more augmentation of scale",
}
_FEW = 10  # objects of a class, below which it is not judged
_MAX_CURVES = 80
_MIN_COST = 0.005  # of AP, to be worth a sentence


def sections_of(report: Mapping[str, Any], matches: Matches, data: ObjectData, model: LoadedModel) -> list[Section]:
    """Return the sections of a page."""
    return [
        Section("What stands out", points=list(findings(report))),
        _precision(report),
        _classes(report),
        _curves(report),
        _errors(report),
        _confusion(report),
        _worst(report, matches, data, model),
        *_suspects(report, model),
        _statistics(matches, data),
    ]


def findings(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stands out, in words, the most important first."""
    if not report["found"]:
        yield "The model finds nothing: look at its training, and at the score threshold of the config (test_cfg)."
    lost = sorted(report["errors"], key=lambda row: -row["cost"])
    total = sum(row["cost"] for row in lost)
    for row in lost[:2]:
        if row["cost"] >= _MIN_COST:
            cost = f"{row['cost'] / total:.0%} of what errors cost comes from"
            yield f"{cost} {_WORDS[row['error']]} ({row['cost']:.3f} of AP50): {_HINTS[row['error']]}."
    sizes = report["missed_by_size"]
    worst = max(sizes, key=lambda name: sizes[name])
    missed = next(row["cost"] for row in lost if row["error"] == "missed")
    if sizes[worst] >= _MIN_COST and missed:
        yield f"Of missed objects, {worst} ones cost most ({sizes[worst]:.3f} of AP50): {_SIZE_HINTS[worst]}."
    counts = np.array(report["confusion"]["counts"])[:-1, :-1]
    off = off_diagonal(counts)
    if off.size and off.max() > 0:
        row, column = np.unravel_index(off.argmax(), off.shape)
        names = report["confusion"]["names"]
        share = off[row, column] / max(np.array(report["confusion"]["counts"])[row].sum(), 1)
        times = off[row, column]
        often = counted(int(times), "time")
        yield f"{names[row]} is taken for {names[column]} {often}, {share:.0%} of all {names[row]} objects."
    best = report["best_score"]
    if best:
        threshold = math.floor(1000 * best["score"]) / 1000  # not above the object that sets it
        yield (
            f"Use a score threshold of {threshold:.3f}: there, {best['precision']:.0%} of "
            f"what is found is right, and {best['recall']:.0%} of all objects are found (F1 {best['f1']:.3f})."
        )
    yield from findings_of_counts(report["by_class"], "objects", _FEW, "objects")
    if report["suspects"]:
        kinds = Counter(row["kind"] for row in report["suspects"])
        parts = ", ".join(f"{number} of {_SUSPECTS[kind]!r}" for kind, number in kinds.items())
        yield f"Where model and labels contradict each other most, both are worth a look: {parts}."


def _precision(report: Mapping[str, Any]) -> Section:
    rows = [[_KINDS[kind], *(number(value) for value in values.values())] for kind, values in report["ap"].items()]
    names = list(next(iter(report["ap"].values())))
    note = "COCO's average precision (AP) and recall (AR); s, m, l are objects below 32 x 32, 96 x 96, and above."
    return Section("Average precision", note=note, header=["", *names], rows=rows)


def _classes(report: Mapping[str, Any]) -> Section:
    header = list(report["by_class"][0])
    rows = [[number(value) for value in row.values()] for row in report["by_class"]]
    note = "The best score is the threshold of the highest F1 at an IoU of 0.5."
    return Section("Classes", note=note, header=[_named(name) for name in header], rows=rows)


def _named(column: str) -> str:
    kind, _, item = column.partition(" ")
    return f"{item}, {_KINDS[kind]}" if kind in _KINDS else column


def _curves(report: Mapping[str, Any]) -> Section:
    order = sorted(range(len(report["classes"])), key=lambda label: -report["by_class"][label]["objects"])
    shown = sorted(order[:_MAX_CURVES])
    names, curves = ([report[key][label] for label in shown] for key in ("classes", "curves"))
    f1 = [
        [2 * p * r / max(p + r, 1e-12) for p, r in zip(one["precision"], one["recall"], strict=True)] for one in curves
    ]
    scores = [one["score"] for one in curves]
    recalls, precisions = figures.from_zero(curves)
    which = "class" if len(shown) == len(order) else f"class of the {len(shown)} with most objects"
    note = f"Boxes at an IoU of 0.5, a line per {which}."
    plots = [
        figures.curves("Precision and recall", names, recalls, precisions, x="recall", y="precision"),
        figures.curves("F1 from a score", names, scores, f1, x="score", y="F1"),
        figures.reliability(report["calibration"]["bins"]),
    ]
    error = report["calibration"]["error"]
    return Section(
        "Curves", note=f"{note} The scores differ from the precision by {error:.3f} on average.", figures=plots
    )


def _errors(report: Mapping[str, Any]) -> Section:
    rows = [[row["error"], number(row["number"]), number(row["cost"], 4)] for row in report["errors"]]
    sizes = report["missed_by_size"]
    note = (
        "By how much AP50 would rise if all errors of a kind were corrected, each kind by itself (TIDE, arXiv "
        "2008.08115); and if no missed object of a size had been there."
    )
    plots = [
        figures.bars(
            "Errors", [row["error"] for row in report["errors"]], [row["cost"] for row in report["errors"]], y="AP50"
        ),
        figures.bars("Missed objects by size", list(sizes), list(sizes.values()), y="AP50"),
    ]
    return Section("Errors", note=note, header=["error", "number", "cost in AP50"], rows=rows, figures=plots)


def _confusion(report: Mapping[str, Any]) -> Section:
    facts = report["confusion"]
    note = (
        f"Boxes from a score of {facts['score']:.2f} at an IoU of {facts['iou']}. In the column of the background are "
        "objects that were not found, in its row what was found where there is nothing."
    )
    plot = figures.heat_map("Labelled and found classes", facts["names"], np.array(facts["counts"]))
    return Section("Confusion", note=note, figures=[plot])


def _worst(report: Mapping[str, Any], matches: Matches, data: ObjectData, model: LoadedModel) -> Section:
    score = report["best_score"]["score"] if report["best_score"] else 0.3
    places = {str(path): image for image, path in enumerate(data.paths)}
    pictures = []
    for row in report["worst_images"]:
        image = places[row["image"]]
        pixels, zoom = enlarge(model.picture(data.paths[image]), _SIDE)
        panels = [
            write_caption(draw_objects(pixels, _labelled(matches, data, image, zoom)), "labelled"),
            write_caption(draw_objects(pixels, _found(matches, data, image, zoom, score)), "found"),
        ]
        errors = ", ".join(f"{name} {count}" for name, count in row["errors"].items())
        pictures.append(
            as_picture(beside(panels), f"{Path(row['image']).name}: costs {row['cost']:.4f} of AP50; {errors}")
        )
    note = f"What their errors cost, all together, of AP50. Objects from a score of {score:.2f} are drawn."
    return Section("Worst images", note=note, pictures=pictures)


def _labelled(matches: Matches, data: ObjectData, image: int, zoom: float) -> Sequence[Any]:
    labelled = matches.labelled
    places = np.flatnonzero(labelled.images == image)
    texts = [data.class_names[label] for label in labelled.labels[places]]
    texts = [f"{text} crowd" if labelled.is_crowd[place] else text for text, place in zip(texts, places, strict=True)]
    return found_objects(labelled.boxes[places], labelled.labels[places].tolist(), texts, None, zoom=zoom)


def _found(matches: Matches, data: ObjectData, image: int, zoom: float, score: float) -> Sequence[Any]:
    found = matches.found
    places = np.flatnonzero((found.images == image) & (found.scores >= score))
    texts = [
        f"{data.class_names[found.labels[place]]} {found.scores[place]:.2f}"
        + ("" if matches.kinds[place] == NOTHING or matches.is_ignored[place] else " x")
        for place in places
    ]
    return found_objects(found.boxes[places], found.labels[places].tolist(), texts, None, zoom=zoom)


def _suspects(report: Mapping[str, Any], model: LoadedModel) -> Iterator[Section]:
    for kind, title in _SUSPECTS.items():
        rows = [row for row in report["suspects"] if row["kind"] == kind]
        if rows:
            note = (
                "Labels that the model contradicts, the strongest first, at most twenty. White: label; orange: model."
            )
            yield Section(title, note=note, pictures=[_suspect(row, model) for row in rows])


def _suspect(row: Mapping[str, Any], model: LoadedModel) -> Picture:
    pixels = model.picture(row["image"])
    boxes = [(row["model_box"], (0, 140, 255))]
    if "label_box" in row:
        boxes.insert(0, (row["label_box"], (255, 255, 255)))
    corners = np.array([box for box, _ in boxes])
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    margin = _AROUND * np.maximum(high - low, 16)
    left, top = np.maximum(low - margin, 0).astype(int)
    right, bottom = np.minimum(high + margin, pixels.shape[1::-1]).astype(int)
    part, zoom = enlarge(np.ascontiguousarray(pixels[top:bottom, left:right]), _SUSPECT_SIDE)
    part = part.copy()
    for box, colour in boxes:
        x1, y1, x2, y2 = (
            round(zoom * (value - start)) for value, start in zip(box, (left, top, left, top), strict=True)
        )
        cv2.rectangle(part, (x1, y1), (x2, y2), colour, 2)
    label = f"labelled {row['label']}, " if "label" in row else ""
    return as_picture(part, f"{Path(row['image']).name}: {label}model {row['model']} {row['score']:.2f}")


def _statistics(matches: Matches, data: ObjectData) -> Section:
    labelled = matches.labelled
    sizes = labelled.boxes[:, 2:] - labelled.boxes[:, :2]
    per_image = np.bincount(labelled.images, minlength=len(data.paths))
    per_class = np.bincount(labelled.labels, minlength=len(data.class_names))
    plots = [
        figures.bars("Objects of a class", data.class_names, per_class.tolist(), y="objects"),
        figures.histogram("Objects in an image", per_image, x="objects"),
        figures.histogram(
            "Size of an object", np.sqrt(sizes.prod(axis=1)), x="square root of the box's area", is_log=True
        ),
        figures.histogram(
            "Shape of an object", sizes[:, 0] / np.maximum(sizes[:, 1], 1e-9), x="width / height", is_log=True
        ),
    ]
    empty = int((per_image == 0).sum())
    note = f"{len(data.paths):,} images, {len(labelled.labels):,} objects, {empty:,} images without any."
    return Section("The data", note=note, figures=plots)
