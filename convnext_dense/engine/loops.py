"""mmengine's training loops, for runs that can end and resume at any iteration.

Every random number of a run depends only on its seed, on the process and on where it is drawn: in a pipeline, on the
position of the image in the run; in the model, on the iteration. A checkpoint therefore needs no random states, and a
resumed run continues as if it had not been interrupted.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.runner import EpochBasedTrainLoop as MMEngineEpochBasedTrainLoop
from torch import nn

from convnext_dense.engine.batch_sampler import PositionedBatchSampler, seed_step, with_positions
from convnext_dense.engine.processes import check_batches, check_processes_agree
from convnext_dense.errors import UserError
from convnext_dense.registry import LOOPS


@LOOPS.register_module()
class EpochBasedTrainLoop(MMEngineEpochBasedTrainLoop):
    """mmengine's loop over epochs, which can also begin inside an epoch.

    If the checkpoint was written before a validation that was due, a resumed run begins with that validation.
    """

    unit = "epochs"

    def __init__(self, runner: Any, dataloader: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(runner, with_positions(dataloader), *args, **kwargs)
        _check_length("max_epochs", self._max_epochs)
        _check_length("val_interval", self.val_interval)
        self._begin = 0  # number of the iteration at which the current epoch began
        self._first_batch = 0  # of the next epoch to run
        self._is_validation_pending = False
        self._seed = 0

    def position(self, epoch: int, iter: int) -> dict[str, Any]:
        """Return what a checkpoint stores for ``continue_from`` beside mmengine's own epoch and iteration."""
        batch = iter - self._begin if epoch == self._epoch else 0
        return dict(batch_in_epoch=batch, batches_per_epoch=len(self.dataloader))

    def continue_from(self, meta: Mapping[str, Any]) -> None:
        """Set the position inside the epoch at which a resumed run begins.

        Args:
            meta: The ``meta`` of the checkpoint; mmengine reads epoch and iteration from it.

        Raises:
            UserError: The checkpoint was written inside an epoch, whose number of batches has changed.
        """
        self._first_batch = meta.get("batch_in_epoch", 0)
        length = meta.get("batches_per_epoch")
        if self._first_batch and length != len(self.dataloader):
            raise UserError(
                f"The checkpoint was written after {self._first_batch} of {length} batches of an epoch, which now has "
                f"{len(self.dataloader)}. Resume with the same data, batch size and number of processes, or from a "
                "checkpoint at the end of an epoch."
            )
        self._is_validation_pending = not meta.get("validated", True) and not self._first_batch

    def run(self) -> nn.Module:
        """Train and validate from the current position of the run.

        Raises:
            UserError: The processes do not agree on that position or on the size of the data.
        """
        self._prepare()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Train for the rest of an epoch."""
        self._begin = self._iter - self._first_batch
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for number, batch in enumerate(self._batches(), self._first_batch):
            self.run_iter(number, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self._begin, self._first_batch = self._iter, 0

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train on one batch."""
        seed_step(self._seed, self._iter)
        super().run_iter(idx, data_batch)

    def _prepare(self) -> None:
        self.runner.call_hook("before_train")
        check_processes_agree(self.runner, self._first_batch)
        check_batches(self.dataloader, "train_dataloader")
        if self.runner.val_loop is not None:
            check_batches(self.runner.val_dataloader, "val_dataloader")
        seeds = [self.runner.seed]
        broadcast_object_list(seeds)  # with diff_rank_seed=True every process has its own
        self._seed = seeds[0]
        done, end = self._progress()
        if done >= end:
            self.runner.logger.info(f"Nothing is left to train: {done} of {end} {self.unit} are done.")
        if self._is_validation_pending:
            self._validate_if_due()

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        done, end = self._progress()
        if self.runner.val_loop is None or done < self.val_begin:
            return
        if done % self.val_interval == 0 or done == end:
            self.runner.val_loop.run()

    def _progress(self) -> tuple[int, int]:
        return self._epoch, self._max_epochs

    def _batches(self, *, endless: bool = False) -> Iterator[Any]:
        """Return an iterator over the batches from ``_first_batch`` on."""
        loader, sampler = self.dataloader, self.dataloader.batch_sampler
        positioned = isinstance(sampler, PositionedBatchSampler)
        if hasattr(loader.dataset, "start_epoch"):
            size = sampler.batch_size if positioned else loader.batch_size
            loader.dataset.start_epoch(self._seed, self._epoch, size)
        if positioned:
            sampler.start(self._seed, self._epoch, self._first_batch, endless=endless)
            return iter(loader)
        if self._first_batch:
            self.runner.logger.info(f"{self._first_batch} batches are read and dropped: this data cannot be skipped.")
        passes = itertools.repeat(loader) if endless else [loader]
        return itertools.islice(itertools.chain.from_iterable(passes), self._first_batch, None)


@LOOPS.register_module()
class IterBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop over iterations: one endless epoch, with validations in it.

    Args:
        runner: The runner.
        dataloader: Config of the data loader, or a built one.
        max_iters: Number of iterations to train for.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals``, in iterations.
    """

    unit = "iterations"

    def __init__(self, runner: Any, dataloader: Any, max_iters: int, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, max_epochs=1, **{"val_interval": 1000, **kwargs})
        _check_length("max_iters", max_iters)
        self._max_iters = int(max_iters)

    def position(self, epoch: int, iter: int) -> dict[str, Any]:
        """Return nothing: the iteration is the number of the batch."""
        return {}

    def continue_from(self, meta: Mapping[str, Any]) -> None:
        """Set the batch at which a resumed run begins."""
        self._first_batch = meta["iter"]
        self._is_validation_pending = not meta.get("validated", True)

    def run(self) -> nn.Module:
        """Train and validate from the current position of the run."""
        self._prepare()
        self.runner.call_hook("before_train_epoch")
        batches = self._batches(endless=True)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(self._iter, next(batches))
            self._validate_if_due()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _progress(self) -> tuple[int, int]:
        return self._iter, self._max_iters

    def _decide_current_val_interval(self) -> None:
        position = max(index for index, begin in enumerate(self.dynamic_milestones) if begin <= self._iter + 1)
        self.val_interval = self.dynamic_intervals[position]


def _check_length(name: str, value: Any) -> None:
    if value != int(value) or value < 1:
        raise UserError(f"train_cfg.{name}={value!r} must be a whole number, 1 or more.")
