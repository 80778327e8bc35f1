"""Everything that is looked at in the data of a config, as text."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.data.class_counts import task_of
from convnext_dense.data.inspection import ERROR, NUM_OPENED, WARNING, Inspection
from convnext_dense.data.overlay import draw_overlay
from convnext_dense.data.round_trip import inspect_round_trip
from convnext_dense.data.tasks import inspect_data, use_folder

LOADERS = ("train", "val", "test")


def report_data(
    cfg: Config,
    *,
    data: str | os.PathLike | None = None,
    classes: Sequence[str] | None = None,
    all_images: bool = False,
    overlay: Path | None = None,
    follow: Callable[[Sequence[Any], str], Any] | None = None,
) -> tuple[bool, str]:
    """Checks all data sets of a config, evaluates their ground truth, and draws it.

    Args:
        cfg: The config; changed where ``data`` is given, and where masks are missing.
        data: Folder of one's own data that replaces the config's.
        classes: Class names of ``data`` by label, for segmentation.
        all_images: Whether every image is opened instead of a sample.
        overlay: The sheet to draw, if any.
        follow: See ``Inspection``.

    Returns:
        Whether there is no error, and the report.

    Raises:
        ValueError: The folder has another layout, or the config's task is not known.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))  # in it, names such as CocoDataset are looked up
    task = task_of(cfg)
    if task is None:
        raise ValueError(f"The data of {cfg.model.get('type')} cannot be checked: the model has no head that is known.")
    if data is not None:
        use_folder(cfg, data, classes)
    elif classes is not None:
        raise ValueError("--classes names the classes of a folder that is given with --data DIR.")
    inspection = Inspection(None if all_images else NUM_OPENED, takes_time=True, follow=follow)
    inspect_data(cfg, LOADERS, inspection)
    is_right = not inspection.of(ERROR)
    if is_right:
        inspect_round_trip(cfg, LOADERS, inspection, task)
    else:
        inspection.lines.append("Round trip: not run, because of the errors below.")
    num_opened = "all images were" if all_images else f"up to {NUM_OPENED} images per data set were"
    inspection.lines.append(f"All annotations were read and {num_opened} opened.")
    if overlay is not None:
        num_drawn = draw_overlay(cfg, LOADERS, overlay, task)
        inspection.lines.append(f"Overlay of {num_drawn} images, to look at: {overlay}" if num_drawn else "No overlay.")
    return not inspection.of(ERROR), "\n".join([*inspection.lines, "", format_findings(inspection)])


def format_findings(inspection: Inspection) -> str:
    """Writes what was found as a table, errors first, and how much there is of each severity."""
    if not inspection.findings:
        return "Nothing was found: 0 errors, 0 warnings."
    head = ("severity", "check", "count", "first example")
    rows = [head, *((found.severity, found.check, str(found.times), found.example) for found in inspection.findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    totals = (sum(found.times for found in inspection.of(severity)) for severity in (ERROR, WARNING))
    return "\n".join([*lines, "", "{} errors, {} warnings.".format(*totals)])
