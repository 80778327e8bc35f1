"""Leaves a run on a signal, with everything saved."""

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
from convnext_dense.engine.signals import EXIT_CODES, shield_workers
from convnext_dense.registry import HOOKS

# Seconds within which a second Ctrl-C is the first one once more: `timeout`, launchers and terminals all send it on.
_ONE_PRESS = 1.0


@HOOKS.register_module()
class InterruptHook(Hook):
    """On SIGTERM, SIGUSR1 or Ctrl-C, finishes the iteration, saves and leaves; on a second Ctrl-C leaves at once.

    Where gradients are accumulated, the step that they are for is finished. Several processes agree on the iteration,
    by one number that they exchange after every step, and every batch of a validation. A validation under way is given
    up, and begun anew by the resumed run. Workers of data loaders live on until their process ends them.

    Raises:
        SystemExit: With 75 after SIGTERM and SIGUSR1, with 130 after Ctrl-C.
    """

    priority = "LOWEST"  # after all that belongs to the iteration

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, Any] = {}
        self._process = 0
        self._pressed = 0.0
        self._num_shared = 0

    def before_train(self, runner: Any) -> None:
        """Take the signals over, and keep them from the workers, none of which is started yet."""
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._previous = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        shield_workers(runner.train_dataloader)
        if runner.val_loop is not None:
            shield_workers(runner.val_dataloader)

    def after_train(self, runner: Any) -> None:
        """Return the signals back."""
        self.release()

    def release(self) -> None:
        """Return the signals back, however training ended."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leave between two steps of the optimizer; several ones may never be there at once."""
        if (is_between_steps(runner) or "" not in optim_wrappers(runner)) and self._is_signalled():
            self._leave(runner, epoch=runner.epoch, iteration=runner.iter + 1)

    def before_val_epoch(self, runner: Any) -> None:
        """Find how many batches every process has; some may have one more."""
        if get_world_size() > 1:
            num_batches = torch.tensor(length_of(runner.val_dataloader) or 0)
            all_reduce(num_batches, op="min")
            self._num_shared = int(num_batches)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leave in the middle of a validation."""
        is_shared = get_world_size() == 1 or batch_idx < self._num_shared
        if is_shared and self._is_signalled():
            runner.call_hook("after_val_epoch", metrics={})  # EMAHook gives the model its own weights back
            self._leave(runner, epoch=runner.epoch, iteration=runner.iter)

    def _is_signalled(self) -> bool:
        """Whether this process or, exchanged here, another one has received a signal."""
        if get_world_size() > 1:
            received = torch.tensor(self._signal)
            all_reduce(received, op="max")
            self._signal = int(received)
        return bool(self._signal)

    def _leave(self, runner: Any, *, epoch: int, iteration: int) -> None:
        hook = checkpoint_hook_of(runner)
        path = hook.save_interrupted(runner, epoch=epoch, iteration=iteration) if hook else None
        name = signal.Signals(self._signal).name
        rest = f"Go on from {path} with --resume." if path else "There is no checkpoint to go on from."
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
            os.write(2, b"\nSaving after this iteration, then leaving. Ctrl-C again leaves at once.\n")
