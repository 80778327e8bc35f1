"""A segmenter's report as sections of a page."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convnext_dense.inference import LoadedModel
from convnext_dense.inference.validation import Evaluation
from convnext_dense.reports import figures
from convnext_dense.reports.measured import counted, findings_of_counts, listed, off_diagonal
from convnext_dense.reports.page import Picture, Section, as_picture, number
from convnext_dense.reports.pixels import DILATION_RATIO, PixelCounts, labels_of
from convnext_dense.visualization import beside, draw_errors, enlarge, paint_label_map, write_caption

_SIDE = 240  # pixels of a picture
_FEW = 5  # images with a class, below which it is not judged
_MUCH, _TIMES = 0.5, 3  # of wrong pixels; as many as elsewhere
_MANY = 0.01  # of pixels, to be worth a sentence


def sections_of(
    report: Mapping[str, Any], counts: PixelCounts, evaluation: Evaluation, model: LoadedModel
) -> list[Section]:
    """Return the sections of a page."""
    return [
        Section("What stands out", points=list(findings(report))),
        _means(report),
        _classes(report),
        _confusion(report),
        _worst(report, evaluation, model),
        _statistics(report, counts),
    ]


def findings(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stands out, in words, the most important first."""
    known = sorted((row for row in report["by_class"] if row["IoU"] is not None), key=lambda row: row["IoU"])
    mean = report["means"]["mIoU"]
    if low := [row for row in known if row["IoU"] < mean][:3]:
        names = [f"{row['class']} ({row['IoU']:.2f})" for row in low]
        yield f"Lowest IoU: {listed(names)}; the mean is {mean:.2f}."
    counts = np.array(report["confusion"]["counts"])
    off = off_diagonal(counts)
    if off.size and off.max() > 0:
        row, column = np.unravel_index(off.argmax(), off.shape)
        names = report["confusion"]["names"]
        yield (
            f"Most pixels are lost where {names[row]} is taken for {names[column]}: {off[row, column] / off.sum():.0%} "
            f"of all wrong pixels, {off[row, column] / counts[row].sum():.0%} of those of {names[row]}."
        )
    near = report["near_boundary"]
    if near["wrong"]:
        share, expected = near["wrong_and_near"] / near["wrong"], near["near"] / max(report["pixels"], 1)
        where = f"within {near['distance']:.0%} of the image's diagonal of a boundary, where {expected:.0%} of all are"
        if share >= min(_MUCH, _TIMES * expected):
            yield f"{share:.0%} of wrong pixels are {where}: a larger image size makes outlines more exact."
        else:
            yield f"Only {share:.0%} of wrong pixels are {where}: whole regions are given a wrong class."
    few = report["half_of_errors"]
    if 0 < few <= 0.2 * report["images"]:
        yield f"{few} of {counted(report['images'], 'image')} have half of all wrong pixels: look at the worst images."
    unlabelled = report["unlabelled"] / max(report["unlabelled"] + report["pixels"], 1)
    if unlabelled >= _MANY:
        yield f"{unlabelled:.0%} of all pixels have no label, and count neither way."
    yield from findings_of_counts(report["by_class"], "images", _FEW, "images")


def _means(report: Mapping[str, Any]) -> Section:
    means = report["means"]
    note = (
        "mIoU, mAcc and mDice are means over the classes that are labelled or found; aAcc is the share of right "
        f"pixels. The boundary IoU counts only pixels within {DILATION_RATIO:.0%} of an image's diagonal of a boundary "
        "(arXiv 2103.16562)."
    )
    header = ["mIoU", "mAcc", "aAcc", "mDice", "boundary mIoU"]
    row = [number(means[key]) for key in ("mIoU", "mAcc", "aAcc", "mDice", "boundary_mIoU")]
    return Section("Means", note=note, header=header, rows=[row])


def _classes(report: Mapping[str, Any]) -> Section:
    rows = report["by_class"]
    known = [row for row in rows if row["IoU"] is not None]
    plot = figures.bars("IoU", [row["class"] for row in known], [row["IoU"] for row in known], y="IoU")
    note = "Images and pixels are those with the class in the labels."
    cells = [[number(value) for value in row.values()] for row in rows]
    return Section("Classes", note=note, header=list(rows[0]), rows=cells, figures=[plot])


def _confusion(report: Mapping[str, Any]) -> Section:
    facts = report["confusion"]
    plot = figures.heat_map("Labelled and found classes", facts["names"], np.array(facts["counts"]), in_percent=True)
    note = "Of the pixels of each labelled class, a row, how many are found as each class, in percent."
    return Section("Confusion", note=note, figures=[plot])


def _worst(report: Mapping[str, Any], evaluation: Evaluation, model: LoadedModel) -> Section:
    places = {str(path): place for place, path in enumerate(evaluation.paths)}
    pictures = [_compared(row, places[row["image"]], evaluation, model) for row in report["worst_images"]]
    note = "By how much the mIoU would rise if all pixels of the image were right. Wrong pixels are red."
    return Section("Worst images", note=note, pictures=pictures)


def _compared(row: Mapping[str, Any], place: int, evaluation: Evaluation, model: LoadedModel) -> Picture:
    truth, ignored = labels_of(evaluation, place)
    path = evaluation.paths[place]
    found = model(path)
    pixels, _ = enlarge(model.picture(path), _SIDE)
    num_classes = len(found.class_names)
    known = np.where((truth >= 0) & (truth < num_classes), truth, num_classes)
    panels = dict(
        image=pixels,
        labelled=paint_label_map(pixels, dict(found, label_map=known)),
        found=paint_label_map(pixels, found),
        errors=draw_errors(pixels, (known != found.label_map) & (truth != ignored)),
    )
    shown = beside([write_caption(panel, name) for name, panel in panels.items()])
    wrong = "" if row["wrong"] is None else f"; {row['wrong']:.0%} of its pixels are wrong"
    return as_picture(shown, f"{Path(row['image']).name}: costs {row['cost']:.4f} of mIoU{wrong}")


def _statistics(report: Mapping[str, Any], counts: PixelCounts) -> Section:
    rows = report["by_class"]
    names = [row["class"] for row in rows]
    labelled = counts.images[:, 2]
    plots = [
        figures.bars("Pixels of a class", names, [row["pixels"] / max(report["pixels"], 1) for row in rows], y="share"),
        figures.bars("Images with a class", names, [row["images"] for row in rows], y="images"),
        figures.histogram("Classes in an image", (labelled > 0).sum(axis=1), x="classes"),
    ]
    note = f"{report['images']:,} images, {report['pixels'] / 1e6:,.1f} million labelled pixels."
    return Section("The data", note=note, figures=plots)
