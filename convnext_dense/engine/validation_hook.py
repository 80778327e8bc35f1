"""What a validation needs before it, and says in the log: where in a run it was made, and how long it took."""

import time
from typing import Any

from mmengine.hooks import Hook

from convnext_dense.engine.processes import average_statistics
from convnext_dense.registry import HOOKS


@HOOKS.register_module()
class ValidationHook(Hook):
    """Lets all processes validate the same model, and adds ``iter`` and ``seconds`` to the metrics that mmengine logs.

    mmengine logs the epoch or the iteration of a validation as its step, as the config has it, and of the time only the
    mean of a batch, without the metrics' own.
    """

    priority = "NORMAL"  # before mmengine's LoggerHook, and, as it is registered last, after EMAHook

    def __init__(self) -> None:
        self._start = 0.0

    def before_val(self, runner: Any) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def before_val_epoch(self, runner: Any) -> None:
        """Average the statistics of the model that is validated, which EMAHook has put in place."""
        average_statistics(runner.model)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add them, unless the validation was interrupted."""
        if metrics:
            runner.message_hub.update_scalar("val/iter", runner.iter)
            runner.message_hub.update_scalar("val/seconds", time.monotonic() - self._start)
