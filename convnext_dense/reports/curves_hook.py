"""Keeps the curves of a run in its work dir up to date."""

import time
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from convnext_dense.registry import HOOKS

_MOST = 0.01  # share of the time of a run


@HOOKS.register_module()
class CurvesHook(Hook):
    """Writes ``curves.png`` and ``report.html`` into the work dir at every evaluation and at the end.

    Of a run whose evaluations follow each other so fast that this would take more than a hundredth of its time, it
    leaves some out, but never the end; the first drawing, in which packages are imported, does not count. A fault is a
    warning, and nothing more is drawn after it.
    """

    priority = "LOWEST"  # after the log and the checkpoints are written

    def __init__(self) -> None:
        self._start: float | None = None  # of the training
        self._spent = 0.0  # seconds, after the first drawing
        self._drawn_at = -1  # iteration
        self._where = ""
        self._is_broken = False

    def before_train(self, runner: Any) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Draw the run up to an evaluation, which was not interrupted."""
        if metrics and self._start is not None and self._spent <= _MOST * (time.monotonic() - self._start):
            self._draw(runner)

    def after_train(self, runner: Any) -> None:
        """Draw the whole run, unless an evaluation at its end was drawn, and say where it is."""
        if self._drawn_at != runner.iter:
            self._draw(runner)
        if self._where:
            runner.logger.info(self._where)

    def _draw(self, runner: Any) -> None:
        if self._is_broken or not is_main_process():
            return
        before = time.monotonic()
        try:
            from convnext_dense.reports.run_page import report_run

            report = report_run(Path(runner.work_dir))
        except Exception as error:  # a training must not end for a picture
            runner.logger.warning(f"The curves of this run are not drawn: {type(error).__name__}: {error}")
            self._is_broken, self._where = True, ""
            return
        if self._where:
            self._spent += time.monotonic() - before
        self._drawn_at = runner.iter
        self._where = f"Curves: {report.page or report.curves}. {report.hint}".strip()
