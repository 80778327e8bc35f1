"""mmengine's CheckpointHook with atomic writes, tolerance of a failed write, and checkpoints inside an epoch."""

import copy
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.dist import all_reduce, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from convnext_dense.engine.atomic_backend import ATOMIC, AtomicBackend
from convnext_dense.engine.optimizers import is_between_steps, optim_wrappers
from convnext_dense.engine.processes import average_statistics
from convnext_dense.errors import UserError
from convnext_dense.files import remove_partial_files
from convnext_dense.registry import HOOKS

INTERRUPTED = "interrupted.pth"
# Prefixes of the hook's entries in the message hub.
_HUB_KEYS = ("last_ckpt", "keep_ckpt_ids", "best_ckpt", "best_score")


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """Saves checkpoints like mmengine's hook, with the same arguments and these differences.

    - A checkpoint and the pointer ``last_checkpoint`` are written under a temporary name, flushed to disk and renamed.
      Older checkpoints, including the best one, are removed only after that.
    - If a write fails, the error is logged with the name of the last whole checkpoint and the run continues; a second
      failure in a row ends the run.
    - With several processes, the running statistics of BatchNorm are their mean.
    - In the middle of a step over several batches, the gradients so far are saved too (except with FSDP).
    - ``save_interrupted`` saves at any iteration, as ``interrupted.pth``, which the next regular checkpoint replaces.
    """

    def __init__(self, *args: Any, backend_args: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if backend_args is None and not kwargs.get("file_client_args") and "://" not in str(kwargs.get("out_dir")):
            backend_args = dict(backend=ATOMIC)
        super().__init__(*args, backend_args=backend_args, **kwargs)
        self.keep_ckpt_ids: deque = deque()
        self._num_failures = 0
        self._has_written = False
        self._position: dict[str, Any] = {}
        self._gradients: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._is_validated = False

    def before_train(self, runner: Any) -> None:
        """Prepare the folder as mmengine does, remove partial files of killed processes, and restore gradients."""
        super().before_train(runner)
        for name, param in _parameters(runner.model):
            if name in self._gradients:
                param.grad = self._gradients[name].to(param.device)
        for name, wrapper in optim_wrappers(runner).items():
            wrapper._inner_count = self._counts.get(name, wrapper._inner_count)
        self._gradients, self._counts = {}, {}
        if is_main_process() and isinstance(self.file_backend, AtomicBackend):
            remove_partial_files(self.out_dir)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Set the position of a resumed run; mmengine itself restores the message hub, which has the best score."""
        if runner._resume:
            self.last_ckpt = runner._load_from
            self._gradients = checkpoint.get("gradients", {})
            self._counts = checkpoint.get("optimizer_counts", {})
            if hasattr(runner.train_loop, "continue_from"):
                runner.train_loop.continue_from(checkpoint["meta"])

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Store the position in the run, which mmengine's FlexibleRunner counts wrongly between two epochs."""
        checkpoint["meta"].update(self._position)
        wrappers = optim_wrappers(runner)
        if "" not in wrappers:  # mmengine does not derive the batch counts of several optimizers from the iteration
            checkpoint["optimizer_counts"] = {name: wrapper._inner_count for name, wrapper in wrappers.items()}
        if self._gradients:
            checkpoint["gradients"] = {name: gradient.cpu() for name, gradient in self._gradients.items()}

    def save_interrupted(self, runner: Any, *, epoch: int, iteration: int) -> str | None:
        """Save the run after ``iteration`` iterations, which may be inside epoch ``epoch``.

        Returns:
            The path of the last whole checkpoint: this one, or the previous one (if any) if it cannot be written.

        Raises:
            UserError: The previous checkpoint could not be written either.
        """
        self._try(runner, lambda: self._write(runner, INTERRUPTED, dict(epoch=epoch, iter=iteration)))
        return self.last_ckpt

    def _save_checkpoint(self, runner: Any) -> None:
        self._try(runner, lambda: super(CheckpointHook, self)._save_checkpoint(runner))

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        if self.save_best:
            self._try(runner, lambda: self._save_best(runner, metrics))

    def _save_best(self, runner: Any, metrics: dict[str, Any]) -> None:
        previous = self._best_paths
        # Hide the old best file from mmengine, which would delete it before the better one is written.
        self._best_paths = dict.fromkeys(previous)
        self._is_validated = True
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError:
            for path in self._best_paths.values():
                if path is not None and path not in previous.values():
                    self._remove(path)  # it may be whole, but no checkpoint refers to it
            raise
        finally:
            self._is_validated = False
        current = self._best_paths
        for key, path in previous.items():
            if current[key] is None:
                current[key] = path
            elif path is not None and path != current[key]:
                self._remove(path)
        self._best_paths = current

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            steps = [*(kept for kept in self.keep_ckpt_ids if kept != step), step]
            outdated, kept = steps[: -self.max_keep_ckpts], steps[-self.max_keep_ckpts :]
            self.keep_ckpt_ids = deque(kept)
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        self._write(runner, self.filename_tmpl.format(step), meta)
        for name in (*map(self.filename_tmpl.format, outdated), INTERRUPTED):
            self._remove(self.file_backend.join_path(self.out_dir, name))

    def _write(self, runner: Any, name: str, meta: dict[str, Any]) -> None:
        """Write a checkpoint that a run can be resumed from, and then the pointer to it."""
        self._has_written = True
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        position = dict(epoch=meta["epoch"], iter=meta["iter"])  # mmengine adds to meta and reuses it
        self._position = dict(position, validated=self._is_validated)
        if hasattr(runner.train_loop, "position"):
            self._position.update(runner.train_loop.position(**position))
        self._gradients = _unused_gradients(runner)
        for model in (runner.model, *(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))):
            average_statistics(model)
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        finally:
            self._position, self._gradients = {}, {}
        if is_main_process():
            AtomicBackend().put_text(self.last_ckpt, Path(runner.work_dir, "last_checkpoint"))

    def _try(self, runner: Any, save: Callable[[], None]) -> None:
        """Save; if the main process cannot, report why in every process and restore the message hub."""
        entries = dict(runner.message_hub.runtime_info)
        saved = copy.deepcopy({key: value for key, value in entries.items() if key.startswith(_HUB_KEYS)})
        own = self.last_ckpt, deque(self.keep_ckpt_ids), self._best_paths if self.save_best else {}
        failure: list[str | None] = [None]
        self._has_written = False
        try:
            save()
        except OSError as error:
            failure = [f"{error.strerror}: {error.filename}" if error.filename else str(error)]
        broadcast_object_list(failure)
        if failure[0] is None:
            self._num_failures = 0 if self._has_written else self._num_failures
            return
        for key in [key for key in runner.message_hub.runtime_info if key.startswith(_HUB_KEYS)]:
            runner.message_hub.pop_info(key)
        for key, value in saved.items():
            runner.message_hub.update_info(key, value)
        self.last_ckpt, self.keep_ckpt_ids = own[:2]
        if self.save_best:
            self._best_paths = own[2]
        self._num_failures += 1
        message = f"Checkpoint not written ({failure[0]}). The last whole checkpoint is {self.last_ckpt or 'none'}"
        if self._num_failures > 1:
            raise UserError(
                f"{message}. This is the second failure in a row: free some space and continue with --resume."
            )
        runner.logger.error(f"{message}; the run goes on, and ends if the next write fails too.")

    @property
    def _best_paths(self) -> dict[str, str | None]:
        """The path of the best checkpoint by metric; mmengine stores a single metric's in another attribute."""
        return dict(self.best_ckpt_path_dict) if len(self.key_indicators) > 1 else {"": self.best_ckpt_path}

    @_best_paths.setter
    def _best_paths(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) > 1:
            self.best_ckpt_path_dict = dict(paths)
        else:
            self.best_ckpt_path = paths[""]

    def _remove(self, path: str) -> None:
        """Remove a checkpoint of this run; that of another folder, which the run was resumed from, is not its own."""
        is_own = os.path.realpath(os.path.dirname(path)) == os.path.realpath(self.out_dir)
        if is_own and is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)


def checkpoint_hook_of(runner: Any) -> CheckpointHook | None:
    """Return the hook that can save an interrupted run; None if the config has another checkpoint hook."""
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)


def _parameters(model: Any) -> list[tuple[str, nn.Parameter]]:
    return list((model.module if is_model_wrapper(model) else model).named_parameters())


def _unused_gradients(runner: Any) -> dict[str, Tensor]:
    """Return the gradients accumulated since the last optimizer step, averaged over processes."""
    if is_between_steps(runner) or isinstance(runner.model, FullyShardedDataParallel):
        return {}
    gradients = {name: param.grad.clone() for name, param in _parameters(runner.model) if param.grad is not None}
    for gradient in gradients.values():
        all_reduce(gradient, op="mean")
    return gradients
