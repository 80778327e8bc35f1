"""Show on a terminal how far a run is."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from rich.console import Group, RenderableType

from convnext_dense import terminal
from convnext_dense.engine.checkpoint_hook import checkpoint_hook_of
from convnext_dense.engine.processes import length_of, peak_process_memory
from convnext_dense.registry import HOOKS

_MOST_VALUES = 12  # of the loss and its parts; detectors with queries have forty and more
_TIMES = ("time", "data_time")


@HOOKS.register_module()
class LiveDisplayHook(Hook):
    """Draws the state of a run on a terminal: how far it is, losses, learning rate, memory, the best metric.

    The numbers are those of mmengine's log lines. Metrics of an evaluation are printed above it as they come.
    """

    priority = "VERY_LOW"  # the best checkpoint is known; InterruptHook has not ended the run yet

    def __init__(self) -> None:
        self._display = terminal.Display(self._render)
        self._runner: Any = None
        self._is_training = False
        self._epoch = 0
        self._batches: int | None = None  # of an epoch
        self._batch = 0
        self._done = 0  # iterations of the run
        self._left: float | None = None
        self._evaluated: tuple[str, int, int | None] | None = None  # what, batches done, batches
        self._begin = 0.0  # of the evaluation

    def before_train(self, runner: Any) -> None:
        """Show the display."""
        self._runner, self._is_training = runner, True
        self._epoch, self._done = runner.epoch, runner.iter
        self._batches = length_of(runner.train_dataloader)
        self._batch = runner.iter % self._batches if self._batches else 0
        self._display.start()
        self._display.draw(now=True)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note where the run is, and draw."""
        self._epoch, self._batch, self._done = runner.epoch, batch_idx + 1, runner.iter + 1
        self._left = runner.message_hub.runtime_info.get("eta")
        self._display.draw()

    def after_train_epoch(self, runner: Any) -> None:
        """Draw the end of an epoch."""
        self._display.draw(now=True)

    def before_val_epoch(self, runner: Any) -> None:
        """Show a bar for the evaluation."""
        self._begin_evaluation("Validation", runner.val_dataloader)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note how far the evaluation is, and draw."""
        self._note(batch_idx)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Print the metrics above the display."""
        self._evaluated = None
        if metrics:
            self._print_metrics(self._position(self._epoch + bool(self._batch)), metrics)
        self._display.draw(now=True)

    def before_test_epoch(self, runner: Any) -> None:
        """Show the display."""
        self._runner = runner
        self._display.start()
        self._begin_evaluation("Test", runner.test_dataloader)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note how far the test is, and draw."""
        self._note(batch_idx)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Print the metrics, and take the display away."""
        self._evaluated = None
        self._display.stop()
        if metrics:
            self._print_metrics("Test", metrics)

    def after_train(self, runner: Any) -> None:
        """Leave the last state as lines on the terminal."""
        self.release()

    def release(self) -> None:
        """Give the terminal back; also called if the run ends with an error."""
        self._display.stop(is_kept=self._is_training)

    def _begin_evaluation(self, what: str, loader: Any) -> None:
        self._begin = time.monotonic()
        self._evaluated = (what, 0, length_of(loader))
        self._display.draw(now=True)

    def _note(self, batch_idx: int) -> None:
        if self._evaluated is not None:
            what, _, number = self._evaluated
            self._evaluated = (what, batch_idx + 1, number)
            self._display.draw()

    def _print_metrics(self, label: str, metrics: Mapping[str, Any]) -> None:
        """Print the metrics that the run watches, and as many others as there is room for; the log has all."""
        best = _best(self._runner)
        text = f"{label}: "
        for name in sorted(metrics, key=lambda name: name not in best):
            if not isinstance(metrics[name], float | int):
                continue
            more = f"{name} {metrics[name]:.4f}{' (best so far)' if best.get(name) == metrics[name] else ''}  "
            if name not in best and len(text + more) > max(terminal.console().width, 80):
                break
            text += more
        terminal.print_line(text)

    def _position(self, epoch: int) -> str:
        if self._runner.log_processor.by_epoch:
            return f"Epoch {epoch}/{self._runner.max_epochs}"
        return f"Iteration {self._done}/{self._runner.max_iters}"

    def _render(self) -> RenderableType:
        lines: list[RenderableType] = []
        if self._is_training:
            label = self._position(min(self._epoch + 1, self._runner.max_epochs))
            if self._runner.log_processor.by_epoch:
                label += f", batch {_counted(self._batch, self._batches)}"
            lines = [terminal.bar_line(label, self._done, self._runner.max_iters), self._facts()]
        if self._evaluated is not None:
            what, done, number = self._evaluated
            seconds = (time.monotonic() - self._begin) / max(done, 1)
            facts = [terminal.left(seconds * (number - done))] if done and number else []
            lines.append(terminal.bar_line(f"{what} {_counted(done, number)}", done, number, *facts))
        return Group(*lines)

    def _facts(self) -> RenderableType:
        runner = self._runner
        facts = [("", terminal.left(self._left))] if self._left is not None else []
        facts += [("", speed)] if (speed := _speed(runner)) else []
        facts += [*_values(runner), ("memory", f"{_memory() / 1e9:.1f} GB")]
        facts += [(f"best {name}", f"{value:.4f}") for name, value in _best(runner).items()]
        return terminal.FactLines(facts)


def _counted(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done}/{total}"


def _values(runner: Any) -> list[tuple[str, str]]:
    """Return learning rate, losses, and whatever else a log line of the training has, with its digits."""
    processor, values = runner.log_processor, []
    for key, history in runner.message_hub.log_scalars.items():
        stage, _, name = key.partition("/")
        if stage != "train" or name in _TIMES or name.endswith("base_lr"):
            continue
        is_mean = processor.mean_pattern.match(name)
        value = history.mean(processor.window_size) if is_mean else history.current()
        kind = "e" if name.endswith("lr") else "f"
        values.append((name, f"{value:.{processor.num_digits}{kind}}"))
    return values[:_MOST_VALUES]


def _speed(runner: Any) -> str | None:
    """Return the images per second of all processes; None before the first iteration."""
    times = runner.message_hub.log_scalars.get("train/time")
    loader = runner.train_dataloader
    batch = getattr(loader.batch_sampler, "batch_size", None) or loader.batch_size
    if times is None or not batch:
        return None
    return f"{batch * get_world_size() / times.mean(runner.log_processor.window_size):.1f} images/s"


def _memory() -> int:
    """Return the bytes that torch holds on the GPU; without one, the most that this process has held."""
    if torch.cuda.is_available():
        return torch.cuda.memory_reserved()
    return peak_process_memory()


def _best(runner: Any) -> dict[str, float]:
    """Return the best value so far of each metric by which the run keeps its best checkpoint."""
    names = getattr(checkpoint_hook_of(runner), "key_indicators", None) or []
    info = runner.message_hub.runtime_info
    keys = {name: "best_score" if len(names) == 1 else f"best_score_{name}" for name in names}
    return {name: info[key] for name, key in keys.items() if key in info}
