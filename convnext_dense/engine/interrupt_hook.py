"""Save and end a run on a signal."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook

from convnext_dense.engine.checkpoint_hook import checkpoint_hook_of
from convnext_dense.engine.optimizers import is_between_steps, optim_wrappers
from convnext_dense.engine.processes import length_of
from convnext_dense.engine.workers import shield_workers
from convnext_dense.registry import HOOKS
from convnext_dense.signals import EXIT_CODES
from convnext_dense.terminal import write_at_once

# Seconds within which a repeated SIGINT counts as the same Ctrl-C: `timeout`, launchers and terminals all forward it.
_ONE_PRESS = 1.0


@HOOKS.register_module()
class InterruptHook(Hook):
    """On SIGTERM, SIGUSR1 or Ctrl-C, finishes the iteration, saves and exits; on a second Ctrl-C exits at once.

    If gradients are accumulated, the current step is finished first. Several processes agree on the iteration by
    exchanging one number after every step and every validation batch. A validation in progress is aborted, and the
    resumed run starts it again. Workers of data loaders stay alive until their process ends them.

    Raises:
        SystemExit: With code 75 after SIGTERM or SIGUSR1, and 130 after Ctrl-C.
    """

    priority = "LOWEST"  # after all other hooks of the iteration

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, Any] = {}
        self._process = 0
        self._pressed = 0.0
        self._num_shared = 0

    def before_train(self, runner: Any) -> None:
        """Install the signal handlers, and shield the workers, none of which has started yet."""
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._previous = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        shield_workers(runner.train_dataloader)
        if runner.val_loop is not None:
            shield_workers(runner.val_dataloader)

    def after_train(self, runner: Any) -> None:
        """Restore the previous signal handlers."""
        self.release()

    def release(self) -> None:
        """Restore the previous signal handlers; also called if training ends with an error."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Exit between two optimizer steps; several optimizers may never be between steps at the same time."""
        if (is_between_steps(runner) or "" not in optim_wrappers(runner)) and self._is_signalled():
            self._leave(runner, epoch=runner.epoch, iteration=runner.iter + 1)

    def before_val_epoch(self, runner: Any) -> None:
        """Find the number of batches that all processes have; some may have one more."""
        if get_world_size() > 1:
            num_batches = torch.tensor(length_of(runner.val_dataloader) or 0)
            all_reduce(num_batches, op="min")
            self._num_shared = int(num_batches)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Exit in the middle of a validation."""
        is_shared = get_world_size() == 1 or batch_idx < self._num_shared
        if is_shared and self._is_signalled():
            runner.call_hook("after_val_epoch", metrics={})  # EMAHook gives the model its own weights back
            self._leave(runner, epoch=runner.epoch, iteration=runner.iter)

    def _is_signalled(self) -> bool:
        """Return whether any process has received a signal; processes exchange theirs here."""
        if get_world_size() > 1:
            received = torch.tensor(self._signal)
            all_reduce(received, op="max")
            self._signal = int(received)
        return bool(self._signal)

    def _leave(self, runner: Any, *, epoch: int, iteration: int) -> None:
        hook = checkpoint_hook_of(runner)
        path = hook.save_interrupted(runner, epoch=epoch, iteration=iteration) if hook else None
        name = signal.Signals(self._signal).name
        rest = f"Continue from {path} with --resume." if path else "There is no checkpoint to continue from."
        runner.logger.info(f"{name}: the run ends after iteration {iteration}. {rest}")
        raise SystemExit(EXIT_CODES[signal.Signals(self._signal)])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        now = time.monotonic()
        is_first = self._signal != signal.SIGINT
        if number == signal.SIGINT and not is_first and now - self._pressed > _ONE_PRESS:
            raise KeyboardInterrupt
        self._signal = number
        if number == signal.SIGINT and is_first:  # logging and print are not safe here
            self._pressed = now
            write_at_once("\nSaving after this iteration, then exiting. Press Ctrl-C again to exit at once.\n")
