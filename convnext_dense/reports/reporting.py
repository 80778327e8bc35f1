"""Makes the report of a trained model, and compares reports."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from convnext_dense.data.data_folder import DataFolder
from convnext_dense.description.counting import count_parameters
from convnext_dense.errors import UserError
from convnext_dense.files import names_unwritable, write_json, written_whole
from convnext_dense.inference import Detections, LoadedModel, Predictor
from convnext_dense.inference.validation import Evaluation, evaluation_of
from convnext_dense.reports import classification_page, comparison_page, detection_page, segmentation_page
from convnext_dense.reports.classification import measure_classes, score_images
from convnext_dense.reports.comparing import BY_IMAGE, NUMBERS, PREDICTIONS, REPORT, compare, read_run
from convnext_dense.reports.detection import measure_objects, to_coco_results
from convnext_dense.reports.gathering import gather, read_objects
from convnext_dense.reports.measured import Measured
from convnext_dense.reports.page import Section, require_bokeh, write_page
from convnext_dense.reports.pixels import count_pixels_of
from convnext_dense.reports.resampling import keep_classes, keep_objects, keep_pixels
from convnext_dense.reports.segmentation import measure_pixels
from convnext_dense.terminal import track


class Report(NamedTuple):
    """What was written.

    Attributes:
        page: ``report.html``.
        numbers: ``report.json``.
        predictions: ``predictions.json``, in COCO's result format; None for a model without objects.
    """

    page: Path
    numbers: Path
    predictions: Path | None = None


def report_on(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    data: str | os.PathLike | DataFolder | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    batch_size: int = 1,
) -> Report:
    """Run a model on its validation images, and write what it gets right and wrong.

    Args:
        config: Config that the checkpoint was trained with.
        checkpoint: Source of the weights.
        out_dir: Folder of the report.
        data: Folder with images and labels of one's own; None for the config's validation data.
        options: Values of the config by dotted key.
        device: ``'cpu'``, ``'cuda:0'``, ...; by default the accelerator if there is one.
        batch_size: Images that run at once.

    Raises:
        UserError: The model or the data cannot be read, or Bokeh is not installed.
    """
    require_bokeh()
    predictor = Predictor(config, checkpoint, options=options, device=device)
    predictor.num_best = len(predictor.class_names)
    out_dir = Path(out_dir)
    with names_unwritable(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    evaluation = evaluation_of(predictor, data, work_dir=out_dir)
    facts = dict(
        config=os.fspath(config),
        checkpoint=os.fspath(checkpoint),
        parameters=count_parameters(predictor.model),
        on=_on(dict(data=data, options=options)),
    )
    results = predictor.iterate(evaluation.paths, batch_size=batch_size)
    return write_report(out_dir, predictor, evaluation, results, facts)


def write_report(
    out_dir: Path, model: LoadedModel, evaluation: Evaluation, results: Iterable[Any], facts: Mapping[str, Any]
) -> Report:
    """Write what results get right and wrong.

    Args:
        out_dir: Folder of the report.
        model: Which they are of.
        evaluation: Labelled images.
        results: One per image, in the order of ``evaluation.paths``; a classifier's have all classes.
        facts: The model's ``config``, ``checkpoint`` and number of ``parameters``.
    """
    timed = _Timed(track(results, "predicting", len(evaluation.paths)))
    measured = _MEASURES[model.task](model, evaluation, timed)
    speed = dict(processor_ms_per_image=1000 * timed.seconds / len(evaluation.paths))
    measured.numbers["model"] = dict(facts) | speed
    return _write(out_dir, measured, evaluation)


class _Timed:
    """The items of an iterable, and the processor time that they took."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.seconds = 0.0
        self._items = iter(items)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start = time.process_time()
        try:
            return next(self._items)
        finally:
            self.seconds += time.process_time() - start


def _of_objects(model: LoadedModel, evaluation: Evaluation, results: Iterable[Any]) -> Measured:
    data = read_objects(evaluation, model.class_names)
    found = [_objects_of(one) for one in results]
    predictions, gathered = to_coco_results(found, data), gather(found)
    numbers, matches = measure_objects(data, gathered, predictions)
    sections = detection_page.sections_of(numbers, matches, data, model)
    return Measured(numbers, sections, keep_objects(data, gathered), predictions)


def _objects_of(found: Any) -> Detections:
    if not isinstance(found, Detections):
        raise UserError("A report is for detectors, segmenters and classifiers: one of panoptic segments is not made.")
    return found


def _of_pixels(model: LoadedModel, evaluation: Evaluation, results: Iterable[Any]) -> Measured:
    names = model.class_names
    counts = count_pixels_of(evaluation, results, len(names))
    numbers = measure_pixels(counts, names, evaluation.paths)
    return Measured(
        numbers, segmentation_page.sections_of(numbers, counts, evaluation, model), keep_pixels(counts.images)
    )


def _of_classes(model: LoadedModel, evaluation: Evaluation, results: Iterable[Any]) -> Measured:
    labels = [label for _, label in evaluation.dataset.samples]
    scored = score_images(labels, results)
    numbers = measure_classes(scored, model.class_names, evaluation.paths)
    return Measured(
        numbers, classification_page.sections_of(numbers, model), keep_classes(scored, len(model.class_names))
    )


_MEASURES = {"detection": _of_objects, "segmentation": _of_pixels, "classification": _of_classes}


def _write(out_dir: Path, measured: Measured, evaluation: Evaluation) -> Report:
    report = Report(
        out_dir / REPORT, out_dir / NUMBERS, None if measured.predictions is None else out_dir / PREDICTIONS
    )
    if report.predictions is not None:
        write_json(report.predictions, measured.predictions)
    write_json(report.numbers, measured.numbers)
    names = np.array(_image_names(evaluation.paths))
    with names_unwritable(out_dir / BY_IMAGE), written_whole(out_dir / BY_IMAGE) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, names=names, **measured.by_image)
    facts = measured.numbers["model"]
    subtitle = f"{facts['checkpoint']} on {len(names):,} images; the numbers are in {NUMBERS}"
    write_page(report.page, f"Report of {Path(facts['config']).stem}", subtitle, [*measured.sections, _model(facts)])
    return report


def _image_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of images below the folder that they share."""
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return [path.absolute().relative_to(root).as_posix() for path in paths]


def _model(facts: Mapping[str, Any]) -> Section:
    rows = [
        ["parameters", f"{facts['parameters'] / 1e6:,.1f} million"],
        [
            "processor time per image",
            f"{facts['processor_ms_per_image']:,.0f} ms, reading and post-processing included",
        ],
    ]
    return Section("The model", header=["", ""], rows=rows)


def compare_reports(folders: Sequence[str | os.PathLike], out_dir: str | os.PathLike, **arguments: Any) -> Report:
    """Write the reports of several runs beside each other, see ``compare``.

    Args:
        folders: Of reports, or work dirs of training runs. A report on the best checkpoint of a run, or on its last
            one, is made in ``report`` below it if it is not there.
        out_dir: Folder of the comparison.
        **arguments: Of ``report_on``, for reports that are not there.

    Raises:
        UserError: A folder has neither report nor run, the reports are of different tasks, classes or images, or Bokeh
            is not installed.
    """
    require_bokeh()
    if len(folders) < 2:
        raise UserError("A comparison needs two runs or more.")
    runs = [read_run(_report_of(Path(folder), arguments)) for folder in folders]
    comparison = compare(runs)
    report = Report(Path(out_dir, "comparison.html"), Path(out_dir, "comparison.json"))
    write_json(report.numbers, comparison)
    title, subtitle = f"Comparison of {len(runs)} runs", f"on {comparison['images']:,} images; the numbers are in "
    sections = comparison_page.sections_of(comparison, runs)
    write_page(report.page, title, subtitle + report.numbers.name, sections)
    return report


def _report_of(folder: Path, arguments: Mapping[str, Any]) -> Path:
    """Return the folder of a run's report, which is made unless one of its checkpoint on the same data is there.

    Raises:
        UserError: The folder has neither report nor run.
    """
    if (folder / NUMBERS).is_file():
        return folder
    configs, made = sorted(folder.glob("*.py")), folder / "report"
    checkpoint = _checkpoint_of(folder)
    if checkpoint is None and (made / NUMBERS).is_file():
        return made
    if checkpoint is None or not configs:
        raise UserError(f"{folder} has no report and no run: there is no {NUMBERS}, and no config with a checkpoint.")
    if len(configs) > 1:
        names = ", ".join(config.name for config in configs)
        raise UserError(
            f"{folder} has several configs ({names}): make the report by tools/report.py CONFIG CHECKPOINT."
        )
    if not _is_of(made / NUMBERS, checkpoint, arguments):
        print_log(f"Making the report on {checkpoint} in {made}")
        report_on(configs[0], checkpoint, made, **arguments)
    return made


def _checkpoint_of(folder: Path) -> Path | None:
    """Return the best checkpoint of a run, or the last one that is there."""
    best = sorted(folder.glob("best_*.pth"), key=lambda path: path.stat().st_mtime)
    last = None if best or not folder.is_dir() else find_latest_checkpoint(str(folder))
    if last is not None and not Path(last).is_file():  # the folder was moved
        last = str(folder / Path(last).name)
    return best[-1] if best else Path(last) if last is not None and Path(last).is_file() else None


def _is_of(numbers: Path, checkpoint: Path, arguments: Mapping[str, Any]) -> bool:
    """Whether there is a report of the checkpoint, as it is now, on the same data."""
    try:
        facts = json.loads(numbers.read_text(encoding="utf-8"))["model"]
        is_newer = checkpoint.stat().st_mtime <= numbers.stat().st_mtime
        return is_newer and Path(facts["checkpoint"]).samefile(checkpoint) and facts["on"] == _on(arguments)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _on(arguments: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what the results of a checkpoint depend on, as JSON has it."""
    return {key: None if arguments.get(key) is None else repr(arguments[key]) for key in ("data", "options")}
