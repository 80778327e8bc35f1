"""Makes the report of a trained model."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from convnext_dense.data.data_folder import DataFolder
from convnext_dense.description.counting import count_parameters
from convnext_dense.errors import UserError
from convnext_dense.files import write_json
from convnext_dense.inference import Predictor
from convnext_dense.inference.validation import Evaluation, evaluation_of
from convnext_dense.reports.detection import measure_objects, to_coco_results
from convnext_dense.reports.detection_page import sections_of
from convnext_dense.reports.gathering import gather, read_objects
from convnext_dense.reports.page import Section, require_bokeh, write_page
from convnext_dense.terminal import track


class Report(NamedTuple):
    """What was written.

    Attributes:
        page: ``report.html``.
        numbers: ``report.json``.
        predictions: ``predictions.json``, in COCO's result format.
    """

    page: Path
    numbers: Path
    predictions: Path


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
    """Run a detector on its validation images, and write what it gets right and wrong.

    Args:
        config: Config that the checkpoint was trained with.
        checkpoint: Source of the weights.
        out_dir: Folder of the report.
        data: Folder with images and labels of one's own; None for the config's validation data.
        options: Values of the config by dotted key.
        device: ``'cpu'``, ``'cuda:0'``, ...; by default the accelerator if there is one.
        batch_size: Images that run at once.

    Raises:
        UserError: The model or the data cannot be read, the model is no detector, or Bokeh is not installed.
    """
    require_bokeh()
    predictor = Predictor(config, checkpoint, options=options, device=device)
    if predictor.task != "detection":
        raise UserError(f"A report of a model for {predictor.task} is not made yet: it is for detectors.")
    out_dir = Path(out_dir)
    evaluation = evaluation_of(predictor, data, work_dir=out_dir)
    objects = read_objects(evaluation, predictor.class_names)
    start = time.process_time()
    predictions = list(_predictions(predictor, evaluation, batch_size))
    seconds = time.process_time() - start
    results = to_coco_results(predictions, objects)
    numbers, matches = measure_objects(objects, gather(predictions), results)
    numbers["model"] = dict(
        config=os.fspath(config),
        checkpoint=os.fspath(checkpoint),
        parameters=count_parameters(predictor.model),
        processor_ms_per_image=1000 * seconds / max(len(objects.paths), 1),
    )
    report = Report(*(out_dir / name for name in ("report.html", "report.json", "predictions.json")))
    write_json(report.predictions, results)
    write_json(report.numbers, numbers)
    sections = [*sections_of(numbers, matches, objects, predictor), _model(numbers["model"])]
    subtitle = f"{checkpoint} on {len(objects.paths):,} images; the numbers are in report.json"
    write_page(report.page, f"Report of {Path(config).stem}", subtitle, sections)
    return report


def _predictions(predictor: Predictor, evaluation: Evaluation, batch_size: int) -> Iterator[Any]:
    results = predictor.iterate(evaluation.paths, batch_size=batch_size)
    yield from track(results, "predicting", len(evaluation.paths))


def _model(facts: Mapping[str, Any]) -> Section:
    rows = [
        ["parameters", f"{facts['parameters'] / 1e6:,.1f} million"],
        [
            "processor time per image",
            f"{facts['processor_ms_per_image']:,.0f} ms, reading and post-processing included",
        ],
    ]
    return Section("The model", header=["", ""], rows=rows)
