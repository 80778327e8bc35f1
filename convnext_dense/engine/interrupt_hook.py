"""Leaves a run on a signal, with everything saved."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook

from convnext_dense.engine.checkpoint_hook import checkpoint_hook_of
from convnext_dense.registry import HOOKS

# What a process leaves with: sysexits.h's EX_TEMPFAIL, "try again later", or the shell's number for Ctrl-C.
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


@HOOKS.register_module()
class InterruptHook(Hook):
    """On SIGTERM, SIGUSR1 or Ctrl-C, finishes the iteration, saves and leaves; on a second Ctrl-C leaves at once.

    Where gradients are accumulated, the step that they are for is finished. Several processes agree on the iteration,
    by one number that they exchange after every step. A validation under way is given up, and begun anew by the
    resumed run.

    Raises:
        SystemExit: With 75 after SIGTERM and SIGUSR1, with 130 after Ctrl-C.
    """

    priority = "LOWEST"  # after all that belongs to the iteration

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, Any] = {}
        self._process = 0

    def before_train(self, runner: Any) -> None:
        """Takes the signals over; before workers are started, so that those ignore what their group is sent."""
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._previous = {number: signal.signal(number, self._note) for number in EXIT_CODES}

    def after_train(self, runner: Any) -> None:
        """Gives the signals back."""
        self.release()

    def release(self) -> None:
        """Gives the signals back, however training ended."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leaves between two steps of the optimizer."""
        if not getattr(runner.optim_wrapper, "should_update", lambda: True)():
            return
        if get_world_size() > 1:
            received = torch.tensor(self._signal)
            all_reduce(received, op="max")
            self._signal = int(received)
        if self._signal:
            self._leave(runner, epoch=runner.epoch, iteration=runner.iter + 1)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leaves in the middle of a validation."""
        if self._signal:
            runner.call_hook("after_val_epoch", metrics={})  # EMAHook gives the model its own weights back
            self._leave(runner, epoch=runner.epoch, iteration=runner.iter)

    def _leave(self, runner: Any, *, epoch: int, iteration: int) -> None:
        hook = checkpoint_hook_of(runner)
        path = hook.save_interrupted(runner, epoch=epoch, iteration=iteration) if hook else "no checkpoint"
        name = signal.Signals(self._signal).name
        runner.logger.info(f"{name}: the run ends after iteration {iteration}. Go on from {path} with --resume.")
        raise SystemExit(EXIT_CODES[signal.Signals(self._signal)])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        if number == signal.SIGINT:  # logging and print are not safe here
            os.write(2, b"\nSaving after this iteration, then leaving. Ctrl-C again leaves at once.\n")
