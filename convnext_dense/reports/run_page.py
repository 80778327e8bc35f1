"""The page of a training run: how it went, and what it left."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from convnext_dense.config.differences import diff_configs
from convnext_dense.errors import UserError, shortened
from convnext_dense.reports import figures
from convnext_dense.reports.curves import fewer, headline, thinned, write_curves
from convnext_dense.reports.page import Section, number, require_bokeh, write_page
from convnext_dense.reports.run import Curve, Run, read_run

_MOST_POINTS = 2000  # of a curve on the page
_MOST_ROWS = 50  # of the table of evaluations


class RunReport(NamedTuple):
    """What was written.

    Attributes:
        curves: ``curves.png``.
        page: ``report.html``; None where Bokeh is not installed.
        hint: How to get the page, where it is None.
    """

    curves: Path
    page: Path | None
    hint: str


def report_run(work_dir: Path) -> RunReport:
    """Write ``curves.png`` and ``report.html`` of the latest training run of a work dir into it.

    Raises:
        UserError: There is no log of a training run, or a file cannot be written.
    """
    run = read_run(work_dir)
    curves = work_dir / "curves.png"
    write_curves(run, curves)
    try:
        require_bokeh()
    except UserError as error:
        return RunReport(curves, None, str(error))
    page = work_dir / "report.html"
    write_page(page, f"Training of {run.config.stem}", headline(run), _sections(run))
    return RunReport(curves, page, "")


def _sections(run: Run) -> list[Section]:
    shares = [curve for curve in run.metrics() if max(_finite(curve.ys)) <= 1]
    others = [curve for curve in run.metrics() if curve not in shares]
    losses = run.losses()
    is_log = all(y > 0 for curve in losses for y in _finite(curve.ys))
    resumed = " Dotted lines are where the run was resumed." if run.starts[1:] else ""
    learnt = [
        _lines(run, "Losses", losses, "loss", is_log=is_log),
        _lines(run, "Metrics", shares, "metric"),
        _lines(run, "Metrics above 1" if shares else "Metrics", others, "metric"),
    ]
    rates = [
        _lines(run, "Learning rate", run.learning_rates(), "learning rate"),
        _lines(run, "Seconds per iteration", run.times(), "seconds"),
    ]
    more = [_lines(run, curve.name, [curve], curve.name) for curve in run.others()]
    sections = [
        _files(run),
        Section("Losses and metrics", note=f"A click on a name hides its curve.{resumed}", figures=_drawn(learnt)),
        _evaluations(run),
        Section("Learning rate and time", figures=_drawn(rates)),
        _times(run),
        Section("Training batches", figures=_drawn(more)),
        _changes(run),
    ]
    return [section for section in sections if section.points or section.rows or section.figures]


def _files(run: Run) -> Section:
    """List what the run left, as links into its folder."""
    points = []
    best = run.best()
    if best:
        found = f"{best.metric} {best.value:.4g} at iteration {best.iteration:,}"
        points.append(_linked("Best checkpoint", best.file, found))
    pointer = run.work_dir / "last_checkpoint"
    if pointer.is_file():
        name = Path(pointer.read_text(encoding="utf-8").strip()).name
        points.append(_linked("Last checkpoint", name, "--resume goes on from it"))
    if run.config.is_file():
        points.append(_linked("Config", run.config.name, "it starts the same run again"))
    for folder, start in zip(run.folders, run.starts, strict=True):
        for log in sorted(folder.glob("*.log")):
            what = f"resumed after iteration {start:,}" if start else "from the beginning"
            points.append(_linked("Log", f"{folder.name}/{log.name}", what))
    return Section("Files", points=points)


def _linked(what: str, name: str, more: str) -> Any:
    from markupsafe import Markup

    return Markup('{}: <a href="{}">{}</a> ({})').format(what, name, name, more)


def _drawn(figures: Sequence[Any]) -> list[Any]:
    return [figure for figure in figures if figure is not None]


def _lines(run: Run, title: str, curves: Sequence[Curve], y: str, *, is_log: bool = False) -> Any:
    if not curves:
        return None
    shown = [thinned(curve, _MOST_POINTS) for curve in curves]
    return figures.lines(
        title, shown, y=y, end=run.last_iteration, is_log=is_log, epoch_length=run.epoch_length, starts=run.starts[1:]
    )


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)] or [math.inf]


def _evaluations(run: Run) -> Section:
    names = [curve.name for curve in fewer(run.metrics())]
    best = run.best()
    rows = []
    for row in run.evaluations[-_MOST_ROWS:]:
        is_best = best is not None and row["iter"] == best.iteration
        epoch = [number(row["iter"] / run.epoch_length, 1)] if run.epoch_length else []
        values = [number(float(row[name]), 4) if name in row else "-" for name in names]
        rows.append([f"{row['iter']:,}{' (best)' if is_best else ''}", *epoch, *values])
    header = ["iteration", *(["epoch"] if run.epoch_length else []), *names]
    left_out = max(len(run.evaluations) - _MOST_ROWS, 0)
    note = f"The {left_out:,} evaluations before these are in the curves." if left_out else ""
    return Section("Evaluations", note=note, header=header, rows=rows[::-1])


def _times(run: Run) -> Section:
    seconds = run.seconds()
    total = sum(seconds.values())
    names = dict(data="waiting for data", step="training", validation="validation")
    rows = [[names[key], _duration(value), f"{value / total:.0%}"] for key, value in seconds.items() if total]
    note = "Measured where the log says it, which is not at every iteration."
    return Section("Time", note=note, header=["phase", "about", "share"], rows=rows)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _changes(run: Run) -> Section:
    """List what a resumed run has changed in the config."""
    rows = []
    for (before, after), start in zip(pairwise(run.folders), run.starts[1:], strict=True):
        paths = [folder / "vis_data" / "config.py" for folder in (before, after)]
        if all(path.is_file() for path in paths):
            old, new = (Config.fromfile(path, import_custom_modules=False) for path in paths)
            changes = [["(none)" if value is ... else value for value in change] for change in diff_configs(old, new)]
            rows += [[f"{start:,}", key, *(shortened(str(value)) for value in values)] for key, *values in changes]
    return Section("Changes of the config", header=["resumed after", "key", "before", "after"], rows=rows)
