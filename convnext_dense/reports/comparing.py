"""Compares reports on the same images, and says which differences are more than chance.

Letters: N images, B samples of them.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from convnext_dense.errors import UserError
from convnext_dense.reports.measured import listed
from convnext_dense.reports.resampling import Values, images_with_classes, metrics_of

REPORT, NUMBERS, BY_IMAGE, PREDICTIONS = "report.html", "report.json", "by_image.npz", "predictions.json"
_NUM_SAMPLES = 1000
_FEWEST = 200
_WORK = 5_000_000  # found objects of all samples; of large data sets, fewer samples are drawn
_INTERVAL = (2.5, 97.5)  # percent
FEWEST_IMAGES = 10  # below which no difference is told from chance


class Run(NamedTuple):
    """A report that was made.

    Attributes:
        name: Of the run.
        folder: Of the report.
        numbers: Content of ``report.json``.
        kept: What is kept of each image, see ``resampling``.
    """

    name: str
    folder: Path
    numbers: Mapping[str, Any]
    kept: Mapping[str, np.ndarray]


def read_run(folder: str | os.PathLike) -> Run:
    """Read a report.

    Raises:
        UserError: There is none in the folder, or it is not whole.
    """
    folder = Path(folder).resolve()
    try:
        numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        with np.load(folder / BY_IMAGE) as file:
            kept = dict(file)
        name = folder.parent.name if folder.name == "report" else folder.name
        absent = {"task", "classes", "model"} - numbers.keys()
        if absent or "names" not in kept:
            raise ValueError(f"{', '.join(sorted(absent)) or 'names'} is missing")
        return Run(name, folder, numbers, kept)
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no report: {Path(error.filename).name} is missing.") from error
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
        raise UserError(f"The report in {folder} cannot be read ({error}): make it again.") from error


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the metrics of several reports beside each other, with intervals, as values of JSON.

    Intervals are those of the bootstrap over images: metrics are computed again for samples of as many images, drawn
    with replacement, the same ones for all runs. A difference from the first run is more than chance if the middle 95 %
    of the samples' differences lie on one side of zero.

    Raises:
        UserError: The reports are of different tasks, classes or images.
    """
    _check(runs)
    names = runs[0].kept["names"].tolist()
    weights = _samples(runs, len(names))
    values = [metrics_of(_in_order(run, runs[0]), weights) for run in runs]
    classes, counts = runs[0].numbers["classes"], images_with_classes(runs[0].kept)
    return dict(
        task=runs[0].numbers["task"],
        images=len(names),
        samples=len(weights) - 1,
        runs=[
            dict(name=name, folder=str(run.folder), **run.numbers["model"])
            for name, run in zip(_names(runs), runs, strict=True)
        ],
        metrics=_rows([of_set for of_set, _ in values], len(names)),
        by_class={
            metric: [
                dict(
                    {"class": name}, **_row([of_class[metric][:, label] for _, of_class in values], int(counts[label]))
                )
                for label, name in enumerate(classes)
            ]
            for metric in values[0][1]
            if all(metric in of_class for _, of_class in values)
        },
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the names of runs, with their folders where names occur twice, and numbers where folders do."""
    names = [run.name for run in runs]
    longer = [str(run.folder) if names.count(run.name) > 1 else run.name for run in runs]
    return [f"{name} ({place})" if longer.count(name) > 1 else name for place, name in enumerate(longer, start=1)]


def _check(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        pair = f"{first.folder} and {run.folder}"
        if run.numbers["task"] != first.numbers["task"]:
            raise UserError(f"{pair} cannot be compared: {first.numbers['task']} and {run.numbers['task']}.")
        if sorted(run.numbers["classes"]) != sorted(first.numbers["classes"]):
            odd = sorted(set(run.numbers["classes"]) ^ set(first.numbers["classes"]))
            raise UserError(f"{pair} have not the same classes, such as {listed(odd, 5)}: they cannot be compared.")
        ours, theirs = (set(one.kept["names"].tolist()) for one in (first, run))
        if ours != theirs or len(run.kept["names"]) != len(first.kept["names"]):
            raise UserError(
                f"{pair} are about different images, of {len(ours)} and {len(theirs)} with {len(ours & theirs)} in "
                "both: make the reports on the same ones, by --data DIR."
            )


def _in_order(run: Run, first: Run) -> dict[str, np.ndarray]:
    """Return what is kept of a run with images and classes in the order of the first one.

    Raises:
        UserError: The labels of the images differ.
    """
    kept = dict(run.kept)
    images = _places(run.kept["names"].tolist(), first.kept["names"].tolist())
    classes = _places(run.numbers["classes"], first.numbers["classes"])
    back, class_back = np.argsort(images), np.argsort(classes)
    if "pixels" in kept:
        kept["pixels"] = kept["pixels"][images][:, :, classes]
        is_same = (kept["pixels"][:, 2] == first.kept["pixels"][:, 2]).all()
    elif "ranks" in kept:
        kept["labels"], kept["ranks"] = class_back[kept["labels"][images]], kept["ranks"][images]
        is_same = (kept["labels"] == first.kept["labels"]).all()
    else:
        kept["totals"] = kept["totals"][images][:, classes]
        is_same = (kept["totals"] == first.kept["totals"]).all()
        for kind in ("box", "mask"):
            if f"{kind}_images" in kept:
                kept[f"{kind}_images"] = back[kept[f"{kind}_images"]]
                kept[f"{kind}_labels"] = class_back[kept[f"{kind}_labels"]]
    if not is_same:
        raise UserError(
            f"{first.folder} and {run.folder} are about the same images with other labels: make both reports again."
        )
    return kept


def _places(values: Sequence[Any], wanted: Sequence[Any]) -> np.ndarray:
    """Return where each of the wanted values is."""
    place = {value: number for number, value in enumerate(values)}
    return np.array([place[value] for value in wanted], int)


def _samples(runs: Sequence[Run], number: int) -> np.ndarray:
    """Return (B, N) how often each image is in each sample; the first sample has each image once."""
    found = max((len(run.kept[key]) for run in runs for key in run.kept if key.endswith("_scores")), default=0)
    samples = int(np.clip(_WORK // max(found, 1), _FEWEST, _NUM_SAMPLES))
    drawn = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=samples)
    return np.concatenate([np.ones((1, number), drawn.dtype), drawn])


def _rows(values: Sequence[Values], number: int) -> list[dict[str, Any]]:
    shared = [metric for metric in values[0] if all(metric in of_run for of_run in values)]
    return [dict(metric=metric, **_row([of_run[metric] for of_run in values], number)) for metric in shared]


def _row(values: Sequence[np.ndarray], number: int) -> dict[str, Any]:
    """Return a metric of every run.

    Args:
        values: (B,) per run: of all images, and of samples.
        number: Images that it is about.
    """
    differences = [None if place == 0 else _value(of_run - values[0], number) for place, of_run in enumerate(values)]
    return dict(images=number, values=[_value(of_run, number) for of_run in values], differences=differences)


def _value(of_samples: np.ndarray, number: int) -> dict[str, Any] | None:
    """Return the value of all images, its interval, and whether that is on one side of zero; never of few images."""
    known = of_samples[1:][np.isfinite(of_samples[1:])]
    if not np.isfinite(of_samples[0]) or not len(known):
        return None
    low, high = np.percentile(known, _INTERVAL).tolist()
    return dict(
        value=float(of_samples[0]),
        low=low,
        high=high,
        more_than_chance=number >= FEWEST_IMAGES and (low > 0 or high < 0),
    )
