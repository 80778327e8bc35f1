"""Batches that know their place in a run: where to go on, and which random numbers are theirs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

from convnext_dense.data.transforms import seed_generators
from convnext_dense.registry import DATA_SAMPLERS

# First element of the keys that random numbers are drawn by, so that a model's are not those of a batch.
BATCH, MODEL = 1, 2


class SeededBatch(Sequence):
    """The indices of a batch. Before each is given out, to a data set that is about to load it, generators are seeded.

    So what a pipeline draws belongs to the place of the image in the run, whichever process loads it and however long
    that process has lived. It is no list, because pickling a list would iterate over it.
    """

    def __init__(self, indices: list, key: tuple[int, ...]) -> None:
        self.indices = indices
        self.key = key

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, slot: Any) -> Any:
        return self.indices[slot]

    def __iter__(self) -> Iterator[Any]:
        for slot, index in enumerate(self.indices):
            seed_generators(*self.key, slot)
            yield index


@DATA_SAMPLERS.register_module()
class PositionedBatchSampler:
    """Gives the batches of another batch sampler from any position on, without loading what comes before.

    Args:
        sampler: Sampler of indices, which mmengine builds.
        batch_size: Images per batch of this process.
        drop_last: For torch's ``BatchSampler``, where no other is given.
        batch_sampler: Config of another one.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        *,
        drop_last: bool = False,
        batch_sampler: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        if batch_sampler is None:
            self._batches: Any = BatchSampler(sampler, batch_size, drop_last)
        else:
            parts = dict(sampler=sampler, batch_size=batch_size)
            self._batches = MMENGINE_DATA_SAMPLERS.build(dict(batch_sampler), default_args=parts)
        self._given: dict[int, list] = {}
        self.start(0, 0)

    def start(self, seed: int, epoch: int, first: int = 0, *, endless: bool = False) -> None:
        """Say what the next iteration gives.

        Args:
            seed: The run's, the same in every process.
            epoch: Number of the epoch.
            first: Number of the first batch.
            endless: Whether the samples are shuffled anew and gone through again after their end.
        """
        self._seed, self._epoch, self._first, self._endless = seed, epoch, first, endless
        if hasattr(self.sampler, "seed"):
            self.sampler.seed = seed  # a resumed run has the seed of its checkpoint, which was not there yet

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[SeededBatch]:
        number, num_passes = 0, 0
        while True:
            for indices in self._batches:
                if number >= self._first:
                    self._given[number] = list(indices)
                    self._given.pop(number - 1000, None)  # more than workers load ahead
                    yield SeededBatch(list(indices), (BATCH, self._seed, get_rank(), self._epoch, number))
                number += 1
            if not self._endless or not number:
                return
            num_passes += 1
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(num_passes)

    def indices_of(self, number: int) -> list:
        """Return the indices in one of the last batches; none where it is not known."""
        return self._given.get(number, [])


def with_positions(dataloader: Any) -> Any:
    """Put ``PositionedBatchSampler`` into the config of a data loader.

    Returns:
        A new config; what has no sampler (streams of shards), or is a data loader already, as it is.
    """
    if not isinstance(dataloader, Mapping) or dataloader.get("sampler") is None:
        return dataloader
    changed = dict(dataloader)
    changed["batch_sampler"] = dict(
        type="convnext_dense.PositionedBatchSampler",
        batch_sampler=changed.pop("batch_sampler", None),
        drop_last=changed.pop("drop_last", False),
    )
    return changed


def seed_step(seed: int, iteration: int) -> None:
    """Make what the model draws in one iteration of one process, on every device, a function of its place."""
    key = (MODEL, seed, get_rank(), iteration)
    seed_generators(*key)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(torch.initial_seed())
