"""Batches with a position in the run, from which it can be resumed and which seeds their random numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

from convnext_dense.data.transforms import seed_generators
from convnext_dense.registry import DATA_SAMPLERS

# First element of a seed key, which keeps the random numbers of the model apart from those of a batch.
BATCH, MODEL = 1, 2


class SeededBatch(Sequence):
    """The indices of a batch; iterating over them seeds the random generators before each one.

    What a pipeline draws for an image therefore depends only on the position of the image in the run, not on the
    process that loads it or on what that process did before. This is not a subclass of ``list``, because pickling one
    would iterate over it.
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
    """Yields the batches of another batch sampler from any position on, without loading the earlier ones.

    Args:
        sampler: Sampler of indices, which mmengine builds.
        batch_size: Images per batch in this process.
        drop_last: As for torch's ``BatchSampler``, which is used if ``batch_sampler`` is None.
        batch_sampler: Config of the batch sampler to wrap.
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
        """Set what the next iteration over this sampler yields.

        Args:
            seed: Seed of the run, the same in every process.
            epoch: Number of the epoch.
            first: Number of the first batch.
            endless: Whether to shuffle and start over after the last sample.
        """
        self._seed, self._epoch, self._first, self._endless = seed, epoch, first, endless
        if hasattr(self.sampler, "seed"):
            self.sampler.seed = seed  # a resumed run takes its seed from the checkpoint, after the sampler was built

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[SeededBatch]:
        number, num_passes = 0, 0
        while True:
            for indices in self._batches:
                if number >= self._first:
                    self._given[number] = list(indices)
                    self._given.pop(number - 1000, None)  # more than the workers prefetch
                    yield SeededBatch(list(indices), (BATCH, self._seed, get_rank(), self._epoch, number))
                number += 1
            if not self._endless or not number:
                return
            num_passes += 1
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(num_passes)

    def indices_of(self, number: int) -> list:
        """Return the indices of a recent batch; an empty list if it is not known any more."""
        return self._given.get(number, [])


def with_positions(dataloader: Any) -> Any:
    """Put ``PositionedBatchSampler`` into the config of a data loader.

    Returns:
        A new config. A config without a sampler (streams of shards) and a built data loader are returned unchanged.
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
    """Seed the random numbers of the model, on every device, from the seed, the iteration and the process."""
    key = (MODEL, seed, get_rank(), iteration)
    seed_generators(*key)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(torch.initial_seed())
