"""mmengine's EarlyStoppingHook for runs that can be resumed."""

import math
from typing import Any

from mmengine.hooks import EarlyStoppingHook as MMEngineEarlyStoppingHook

from convnext_dense.config.finetuning import NAME_A_METRIC, watched_metric
from convnext_dense.engine.checkpoint_hook import checkpoint_hook_of
from convnext_dense.errors import UserError
from convnext_dense.registry import HOOKS

_KEY = "early_stopping"


@HOOKS.register_module()
class EarlyStoppingHook(MMEngineEarlyStoppingHook):
    """Ends a run whose metric has stopped improving, and counts on in a resumed run.

    Args:
        patience: Number of evaluations in a row without a better one that end the run.
        monitor: Name of the metric, such as ``'coco/bbox_mAP'``; by default the one by which the checkpoint hook keeps
            the best checkpoint.
        min_gain: By how much an evaluation must be better to count, as a share of the best one: 0.002 is a tenth of a
            point at an AP of 50. As long as the best one is 0, every evaluation is as good.
        **kwargs: As in mmengine.
    """

    monitor: str
    priority = "LOW"  # before the best checkpoint is written, which stores the count

    def __init__(self, patience: int, *, monitor: str | None = None, min_gain: float = 0.002, **kwargs: Any) -> None:
        rule = kwargs.pop("rule", "greater" if monitor is None else None)
        super().__init__(monitor or "", rule=rule, patience=patience, min_delta=0.0, **kwargs)
        self.min_gain = min_gain

    def before_run(self, runner: Any) -> None:
        """Do nothing: mmengine looks into the training loop, which a test would build for that alone."""

    def before_train(self, runner: Any) -> None:
        """Find the metric, and continue the count of the checkpoint that the run resumes from.

        Raises:
            UserError: Neither this hook nor the checkpoint hook names a metric.
        """
        if not self.monitor:
            name = watched_metric(getattr(checkpoint_hook_of(runner), "save_best", None))
            if name is None:
                raise UserError(f"Early stopping needs a metric to watch: {NAME_A_METRIC}")
            self.monitor = name
        info = runner.message_hub.runtime_info
        if f"{_KEY}_count" in info:
            self.wait_count, self.best_score = info[f"{_KEY}_count"], info[f"{_KEY}_best"]

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Compare an evaluation with the best one, and end the run after ``patience`` without a better one."""
        if not metrics:  # the evaluation was interrupted
            return
        super().after_val_epoch(runner, metrics)
        runner.message_hub.update_info(f"{_KEY}_count", self.wait_count)
        runner.message_hub.update_info(f"{_KEY}_best", self.best_score)

    def _check_stop_condition(self, current_score: float) -> tuple[bool, str]:
        if math.isfinite(self.best_score):
            gain = self.min_gain * abs(self.best_score)
            self.min_delta = gain if self.rule == "greater" else -gain
        stops, reason = super()._check_stop_condition(current_score)
        if stops and math.isfinite(current_score):
            reason = (
                f"Early stopping: {self.monitor} has not been better than {self.best_score:.4f} in the last "
                f"{self.wait_count} evaluations."
            )
        return stops, reason
