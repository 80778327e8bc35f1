"""Reports on the data of a config, as text."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.config.class_counts import task_of
from convnext_dense.config.predicting import only_predicts
from convnext_dense.data.checks.inspection import ERROR, NUM_OPENED, WARNING, Inspection
from convnext_dense.data.checks.overlay import draw_overlay
from convnext_dense.data.checks.round_trip import inspect_round_trip
from convnext_dense.data.own.detection import forget_annotations
from convnext_dense.data.own.tasks import inspect_data
from convnext_dense.errors import UserError

LOADERS = ("train", "val", "test")


def report_data(
    cfg: Config,
    loaders: Sequence[str] = LOADERS,
    *,
    all_images: bool = False,
    overlay: Path | None = None,
    follow: Callable[[Sequence[Any], str], Any] | None = None,
) -> tuple[bool, str]:
    """Check data sets of a config, evaluate their ground truth, and draw it.

    Args:
        cfg: The config; changed in place where masks, or the ground truth of the test data, are missing.
        loaders: Which of ``LOADERS`` to check; by default all.
        all_images: Whether to open every image instead of a sample.
        overlay: File to draw the overlay to; None for no overlay.
        follow: See ``Inspection``.

    Returns:
        Whether the data has no error, and the report.

    Raises:
        UserError: The config's task is unknown.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))  # names such as CocoDataset are looked up in it
    task = task_of(cfg)
    if task is None:
        raise UserError(f"The data of {cfg.model.get('type')} cannot be checked: the model has no known head.")
    inspection = Inspection(None if all_images else NUM_OPENED, takes_time=True, follow=follow)
    if "train" not in loaders:
        inspection.warning("splits", "There is no train split: the data can be used for testing, but not for training.")
    elif "val" not in loaders and task != "pretraining":
        inspection.error("splits", "There is no val split: training needs one to validate on.")
    inspect_data(cfg, loaders, inspection)
    is_right = not inspection.of(ERROR)
    if is_right:
        measured = [loader for loader in loaders if not only_predicts(cfg, loader)]
        inspect_round_trip(cfg, measured, inspection, task)
    else:
        inspection.lines.append("Round trip: not run, because of the errors below.")
    num_opened = "all images were" if all_images else f"up to {NUM_OPENED} images per data set were"
    inspection.lines.append(f"All annotations were read and {num_opened} opened.")
    if overlay is not None:
        num_drawn = draw_overlay(cfg, loaders, overlay, task)
        inspection.lines.append(f"Overlay of {num_drawn} images, to look at: {overlay}" if num_drawn else "No overlay.")
    forget_annotations()
    return not inspection.of(ERROR), "\n".join([*inspection.lines, "", format_findings(inspection)])


def format_findings(inspection: Inspection) -> str:
    """Format the findings as a table, errors first, followed by the number of errors and warnings."""
    if not inspection.findings:
        return "Nothing was found: 0 errors, 0 warnings."
    head = ("severity", "check", "count", "first example")
    rows = [head, *((item.severity, item.check, str(item.times), item.example) for item in inspection.findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    totals = (sum(item.times for item in inspection.of(severity)) for severity in (ERROR, WARNING))
    return "\n".join([*lines, "", "{} errors, {} warnings.".format(*totals)])
