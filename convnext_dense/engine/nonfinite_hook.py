"""Stop a run at the first loss or gradient that is not finite, and save what is needed to find the cause."""

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import clip_grad_norm_, get_total_norm

from convnext_dense.engine.batch_sampler import PositionedBatchSampler
from convnext_dense.engine.checkpoint_hook import checkpoint_hook_of
from convnext_dense.engine.optimizers import accumulative_counts, optim_wrappers
from convnext_dense.errors import UserError
from convnext_dense.files import written_whole
from convnext_dense.registry import HOOKS

_LOSS = re.compile(r"train/.*loss", re.IGNORECASE)


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Checks the gradients before every optimizer step, and the loss of every batch.

    If one is not finite, the run ends before the step. Weights and optimizer are still unchanged and are saved as
    ``interrupted.pth``, from which ``--resume`` runs into the same step again. The batches of the step, their files,
    losses, seed and iteration are written to ``WORK_DIR/nonfinite`` as tensors and plain values.

    If gradients are clipped by their norm, checking that norm costs nothing; otherwise it is computed in one pass over
    the gradients. The loss is a number that mmengine has already fetched for its log.

    Args:
        max_skipped_steps: With loss scaling, a step whose gradients overflow is skipped and the scale is lowered; this
            is the number of skipped steps in a row that are tolerated. From its start at 65536, a scale needs 16 to
            come down to 1.
    """

    priority = "ABOVE_NORMAL"  # before the moving average is updated

    def __init__(self, max_skipped_steps: int = 20) -> None:
        self.max_skipped_steps = max_skipped_steps
        self._num_skipped: dict[str, int] = {}  # in a row, by name of the optimizer
        self._counts: dict[str, int] = {}  # batches that each optimizer had seen before this iteration
        self._stepped: set[str] = set()  # optimizers that have stepped since the first of `_batches`
        self._batches: list[Any] = []  # since the last step
        self._losses: Any = {}
        self._handles: list[Any] = []

    def before_train(self, runner: Any) -> None:
        """Register hooks on the optimizers and the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._handles = [model.register_forward_hook(self._note_losses)]
        for name, wrapper in optim_wrappers(runner).items():
            before_step = partial(self._before_step, runner, name, wrapper)
            self._handles.append(wrapper.optimizer.register_step_pre_hook(before_step))

    def after_train(self, runner: Any) -> None:
        """Remove the registered hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch until the step is complete."""
        if self._handles:
            self._counts = {name: wrapper._inner_count for name, wrapper in optim_wrappers(runner).items()}
            self._batches.append((batch_idx, data_batch))
            del self._batches[
                : -accumulative_counts(runner)
            ]  # several optimizers may never complete a step at the same time

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check the loss.

        Raises:
            UserError: The loss is not finite, or too many steps in a row were skipped.
        """
        if not self._handles:
            return
        wrappers = optim_wrappers(runner)
        updated = all(wrapper.should_update() for wrapper in wrappers.values())
        scaled = {name: wrapper for name, wrapper in wrappers.items() if _scaler(wrapper) is not None}
        for name, wrapper in scaled.items():
            if wrapper.should_update() and wrapper._inner_count != self._counts.get(name):
                self._count_skipped(runner, name, wrapper)
        if not scaled:
            for name, loss in _losses(runner):
                if not math.isfinite(loss):
                    self._stop(runner, f"The {name} is {loss}", is_unchanged=not self._stepped)
        if updated:
            self._batches.clear()
            self._stepped.clear()

    def _before_step(self, runner: Any, name: str, wrapper: OptimWrapper, *_: Any) -> None:
        if _scaler(wrapper) is not None:
            # A fused optimizer is always called, and skips the step itself.
            found_inf = getattr(wrapper.optimizer, "found_inf", None)
            if found_inf is None or not bool(found_inf):
                self._stepped.add(name)
            return
        norm = _gradient_norm(runner, wrapper)
        if not math.isfinite(norm):
            whose = f" of optimizer {name}" if name else ""
            self._stop(runner, f"The norm of the gradients{whose} is {norm}", is_unchanged=not self._stepped)
        self._stepped.add(name)

    def _count_skipped(self, runner: Any, name: str, wrapper: OptimWrapper) -> None:
        num_skipped = self._num_skipped[name] = 0 if name in self._stepped else self._num_skipped.get(name, 0) + 1
        if num_skipped > self.max_skipped_steps:
            scale = f"loss scale {_scaler(wrapper).get_scale():g}"
            self._stop(runner, f"Gradients overflowed in {num_skipped} steps in a row, at {scale}", is_unchanged=False)
        if num_skipped == 1:
            runner.logger.warning(
                f"A step is skipped because gradients overflow. The run ends after {self.max_skipped_steps} in a row."
            )

    def _note_losses(self, model: nn.Module, args: Any, output: Any) -> None:
        if model.training and isinstance(output, Mapping):
            self._losses = output

    def _stop(self, runner: Any, what: str, *, is_unchanged: bool) -> None:
        """Save everything and end the run.

        Args:
            runner: The runner.
            what: What is not finite.
            is_unchanged: Whether weights and optimizer are still those from before the step.
        """
        iteration = runner.iter + 1 - len(self._batches)
        batches = [(number, _names(runner, number, batch), batch) for number, batch in self._batches]
        losses = {name: _plain(value) for name, value in self._losses.items()}
        path = Path(runner.work_dir, "nonfinite", f"iter_{runner.iter}_rank_{get_rank()}.pth")
        record = dict(
            seed=runner.seed,
            epoch=runner.epoch,
            iter=runner.iter,
            rank=get_rank(),
            losses=losses,
            files=[names for _, names, _ in batches],
            batches=[_plain(batch) for _, _, batch in batches],
        )
        with written_whole(path) as partial:
            torch.save(record, partial)
        bad = [f"{name} is {value}" for name, value in losses.items() if not _all_finite(value)]
        reasons = f" ({', '.join(bad)})" if bad else ""
        files = ", ".join(str(name) for _, names, _ in batches for name in names)
        raise UserError(
            f"{what} at iteration {runner.iter + 1}{reasons}. The batch ({files}) is in {path} with losses and seed. "
            f"{self._save_weights(runner, iteration, is_unchanged=is_unchanged)}"
        )

    def _save_weights(self, runner: Any, iteration: int, *, is_unchanged: bool) -> str:
        hook = checkpoint_hook_of(runner)
        epoch_begin = runner.iter - self._batches[-1][0]
        if hook is None or not is_unchanged or iteration < epoch_begin or not _is_finite(runner.model):
            return f"The last checkpoint is {(hook and hook.last_ckpt) or 'none'}."
        path = hook.save_interrupted(runner, epoch=runner.epoch, iteration=iteration)
        return (
            f"The weights before this step are in {path}: --resume runs into the same step again; a lower learning "
            "rate or other data needs a new run with --cfg-options load_from=CHECKPOINT."
        )


def _scaler(wrapper: OptimWrapper) -> Any:
    """Return the loss scaler of mixed precision; None if none is active."""
    scaler = getattr(wrapper, "loss_scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _losses(runner: Any) -> Iterator[tuple[str, float]]:
    """Yield the losses that mmengine has logged; a model with its own training step may use other names."""
    scalars = runner.message_hub.log_scalars
    names = ["train/loss"] if "train/loss" in scalars else [key for key in scalars if _LOSS.match(key)]
    for name in names:
        yield name.removeprefix("train/"), scalars[name].current()


def _gradient_norm(runner: Any, wrapper: OptimWrapper) -> float:
    if wrapper.clip_grad_kwargs and wrapper.clip_func is clip_grad_norm_:
        norm = wrapper.message_hub.get_scalar(f"train/{wrapper.grad_name}").current()  # a number already
    else:
        grads = [param.grad for group in wrapper.param_groups for param in group["params"] if param.grad is not None]
        norm = float(get_total_norm(grads)) if grads else 0.0
    if isinstance(runner.model, FullyShardedDataParallel):  # each process has its own gradients, but all must stop
        bad = torch.tensor(0.0 if math.isfinite(norm) else 1.0)
        all_reduce(bad, op="max")
        norm = math.nan if bad else norm
    return norm


def _names(runner: Any, number: int, batch: Any) -> list[Any]:
    """Return the files of a batch if they are known, otherwise the indices in the data set."""
    paths = [sample.metainfo["img_path"] for sample in _samples(batch) if "img_path" in sample.metainfo]
    sampler = runner.train_dataloader.batch_sampler
    if paths or not isinstance(sampler, PositionedBatchSampler):
        return paths
    indices = sampler.indices_of(number)
    samples = getattr(runner.train_dataloader.dataset, "samples", None)
    return [samples[index][0] for index in indices] if samples else indices


def _samples(value: Any) -> Iterator[BaseDataElement]:
    if isinstance(value, BaseDataElement):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for child in value.values() if isinstance(value, Mapping) else value:
            yield from _samples(child)


def _plain(value: Any) -> Any:
    """Convert data samples, boxes and masks to tensors and plain values, which load without these classes."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, BaseDataElement):
        return _plain({**dict(value.metainfo_items()), **dict(value.items())})
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    for name in ("tensor", "masks"):  # mmdet's boxes and masks
        if hasattr(value, name):
            return _plain(getattr(value, name))
    return repr(value)


def _all_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(_all_finite(child) for child in value)
    return not isinstance(value, torch.Tensor) or bool(value.isfinite().all())


def _is_finite(model: nn.Module) -> bool:
    """Return whether all parameters and buffers, such as running statistics, are finite."""
    return all(_all_finite(tensor) for tensor in (*model.parameters(), *model.buffers()))
