"""A classifier's report as sections of a page."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convnext_dense.inference import LoadedModel
from convnext_dense.reports import figures
from convnext_dense.reports.classification import SURE
from convnext_dense.reports.measured import counted, findings_of_counts, listed
from convnext_dense.reports.page import Section, as_picture, number
from convnext_dense.visualization import enlarge

_SIDE = 200  # pixels of a picture
_FEW = 10  # images of a class, below which it is not judged
_ERROR = 0.05  # of calibration, to be worth a sentence


def sections_of(report: Mapping[str, Any], model: LoadedModel) -> list[Section]:
    """Return the sections of a page."""
    return [
        Section("What stands out", points=list(findings(report))),
        _means(report),
        _classes(report),
        _confusion(report),
        _worst(report, model),
        _statistics(report),
    ]


def findings(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stands out, in words, the most important first."""
    for pair in report["pairs"][:2]:
        share = pair["images"] / pair["of"]
        often = counted(pair["images"], "time")
        yield f"{pair['label']} is taken for {pair['found']} {often}, {share:.0%} of its images."
    known = sorted((row for row in report["by_class"] if row["recall"] is not None), key=lambda row: row["recall"])
    mean = report["means"]["class_accuracy"]
    if low := [row for row in known if row["recall"] < mean][:3]:
        names = [f"{row['class']} ({row['recall']:.0%})" for row in low]
        yield f"Least often recognised: {listed(names)}; the mean is {mean:.0%}."
    error = report["calibration"]["error"]
    bins = report["calibration"]["bins"]
    if error >= _ERROR:
        surplus = sum(row["objects"] * (row["score"] - row["precision"]) for row in bins)
        too = "surer than it is right" if surplus > 0 else "less sure than it is right"
        yield f"The model is {too}: its scores differ from its accuracy by {error:.0%} on average."
    if report["sure_and_wrong"]:
        yield (
            f"{report['sure_and_wrong']} labels are worth a look: the model is at least {SURE:.0%} sure of another "
            "class; they are among the highest losses."
        )
    yield from findings_of_counts(report["by_class"], "images", _FEW, "images")


def _means(report: Mapping[str, Any]) -> Section:
    means = report["means"]
    header = ["top-1", "top-5", "mean of the classes", "log loss"]
    return Section("Accuracy", header=header, rows=[[number(value) for value in means.values()]])


def _classes(report: Mapping[str, Any]) -> Section:
    rows = report["by_class"]
    cells = [[number(value) for value in row.values()] for row in rows]
    note = "Recall is the share of a class's images that are recognised, precision that of right ones among the found."
    return Section("Classes", note=note, header=list(rows[0]), rows=cells)


def _confusion(report: Mapping[str, Any]) -> Section:
    facts = report["confusion"]
    plots = [figures.reliability(report["calibration"]["bins"])]
    if facts is not None:
        counts = np.array(facts["counts"])
        plots.insert(0, figures.heat_map("Labelled and found classes", facts["names"], counts))
    rows = [[pair["label"], pair["found"], number(pair["images"]), number(pair["of"])] for pair in report["pairs"]]
    return Section("Confusion", header=["labelled", "found", "images", "of its images"], rows=rows, figures=plots)


def _worst(report: Mapping[str, Any], model: LoadedModel) -> Section:
    pictures = []
    for row in report["worst_images"]:
        pixels, _ = enlarge(model.picture(row["image"]), _SIDE)
        pictures.append(
            as_picture(
                pixels,
                f"{Path(row['image']).name}: labelled {row['label']} ({row['label_score']:.3f}), "
                f"model {row['model']} ({row['score']:.3f}); loss {row['loss']:.2f}",
            )
        )
    return Section("Highest losses", note="With the model's probabilities of both classes.", pictures=pictures)


def _statistics(report: Mapping[str, Any]) -> Section:
    rows = report["by_class"]
    names, images = ([row[key] for row in rows] for key in ("class", "images"))
    plot = figures.bars("Images of a class", names, images, y="images")
    return Section("The data", note=f"{report['images']:,} images of {len(rows):,} classes.", figures=[plot])
