"""Images in tar shards (WebDataset), read as streams: for data sets too large for single files.

    ROOT/train-000000.tar with 000001.jpg, 000001.cls, 000002.jpg, ...

Letters: H, W are the height and width of a transformed image in pixels.

Source: https://github.com/webdataset/webdataset (format, opening, reading and shuffling).
Differs: every epoch distributes the shards over processes and workers anew, by the seed and the epoch's number; a
truncated shard stops the run with an error that names it.
"""

import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from torch.utils.data import IterableDataset, get_worker_info

from convnext_dense.data.corrupt_images import CorruptImages
from convnext_dense.data.image_folder import label_or_seed
from convnext_dense.data.text_files import read_lines
from convnext_dense.data.transforms import build_transform, random_state_of
from convnext_dense.errors import UserError
from convnext_dense.registry import DATASETS

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
_END_OF_TAR = bytes(1024)  # two empty blocks, which every tar writer appends


@DATASETS.register_module()
class ImageShards(IterableDataset):
    """Iterable training set, for a ``train_dataloader`` with ``sampler=None``.

    An epoch has ``num_images`` images, whatever the shards hold: a worker whose shards have fewer starts again from its
    first one. Every process gets the same number of images.

    Args:
        shards: Path or URL with braces, ``'data/train-{000000..001023}.tar'``, or a list of them.
        num_images: Number of images per epoch, over all processes.
        classes: Class names in label order, or a text file with one name per line; None reads images alone.
        transform: Arguments of timm's ``create_transform``.
        shuffle_buffer: Number of encoded images to draw the next one from; the order of shards is random as well.
        max_corrupt_rate: Share of the images that may be corrupt; they are skipped. By default, the first is an error.

    Attributes:
        metainfo: ``dict(classes=...)``, which mmengine stores in checkpoints; empty without classes.

    Raises:
        UserError: There are fewer shards than processes, a shard is missing or truncated, or an argument is invalid.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        num_images: int,
        *,
        classes: str | Sequence[str] | None,
        transform: Mapping[str, Any],
        shuffle_buffer: int = 1000,
        max_corrupt_rate: float = 0.0,
    ) -> None:
        self.shards = _expand(shards)
        self.rank, self.world_size = get_rank(), get_world_size()
        if len(self.shards) < self.world_size:
            raise UserError(
                f"{len(self.shards)} shards cannot be distributed over {self.world_size} processes: write more."
            )
        self.num_images = num_images
        self.metainfo: dict[str, tuple[str, ...]] = {}
        if classes is not None:
            self.metainfo["classes"] = tuple(read_lines(Path(classes)) if isinstance(classes, str) else classes)
        self.transform = build_transform(transform)
        self.shuffle_buffer = shuffle_buffer
        self.corrupt = CorruptImages(len(self), max_corrupt_rate)
        self._epoch = torch.zeros(3, dtype=torch.int64).share_memory_()  # see ImageFolder; the third is the batch size
        self._epoch[2] = 1

    def start_epoch(self, seed: int, epoch: int, batch_size: int = 1) -> None:
        """Set seed and number of the coming epoch, and the batch size, so that workers stop at the end of a batch."""
        self._epoch.copy_(torch.tensor([seed, epoch, batch_size]))
        self.corrupt.start_epoch()

    def __len__(self) -> int:
        return self.num_images // self.world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield this worker's images: ``inputs``, a tensor (3, H, W), and ``labels``, an integer.

        Without classes they have ``seeds`` in place of ``labels``, see ``UnlabelledImages``.

        Raises:
            UserError: A shard is truncated or malformed, there are fewer shards than workers, or more than
                ``max_corrupt_rate`` of the images are corrupt.
        """
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        seed, epoch, batch_size = self._epoch.tolist()
        order = np.random.default_rng((seed, epoch)).permutation(len(self.shards))[self.rank :: self.world_size]
        mine = [self.shards[shard] for shard in order[worker::num_workers]]
        if not mine:
            raise UserError(
                f"{len(self.shards)} shards cannot be distributed over {self.world_size} processes x {num_workers} "
                "workers: lower num_workers or write more shards."
            )
        num_batches, rest = divmod(len(self) // batch_size, num_workers)
        wanted = (num_batches + (worker < rest)) * batch_size
        given = 0
        while given < wanted:
            before = given
            for sample in self._read(mine, random.Random(f"{seed} {epoch} {given}")):
                item = self._prepare(sample, (seed, epoch, self.rank, worker, given))
                if item is not None:
                    yield item
                    given += 1
                if given == wanted:
                    return
            if given == before:
                raise UserError(f"There is no image in the shards {mine[0]} ... {mine[-1]}.")

    def _read(self, shards: Sequence[str], rng: random.Random) -> Iterator[dict[str, Any]]:
        import webdataset  # here, because detection and segmentation do not need it

        stream = webdataset.DataPipeline(
            webdataset.SimpleShardList(shards),
            webdataset.tarfile_to_samples(),
            webdataset.shuffle(self.shuffle_buffer, rng=rng),
        )
        samples = iter(stream)
        while True:
            try:
                sample = next(samples)
            except StopIteration:
                return
            except (tarfile.TarError, EOFError, OSError) as error:
                shard = next((arg for arg in error.args[::-1] if arg in shards), "of " + shards[0])
                raise UserError(
                    f"Shard {shard} is truncated or not a tar file: {error.args[0]}. Copy it again."
                ) from error
            yield sample

    def _prepare(self, sample: Mapping[str, Any], key: tuple[int, ...]) -> dict[str, Any] | None:
        name = f"{sample['__key__']} in {sample['__url__']}"
        content = next((sample[kind] for kind in IMAGE_KEYS if kind in sample), None)
        classes = self.metainfo.get("classes")
        if content is None or (classes is not None and "cls" not in sample):
            needed = ", ".join(IMAGE_KEYS) + ("" if classes is None else ", and cls")
            raise UserError(f"{name} has {sorted(sample)}, but needs one of {needed}.")
        label = None if classes is None else int(sample["cls"])
        if classes is not None and label not in range(len(classes)):
            raise UserError(f"{name} has the label {label}, but there are {len(classes)} classes.")
        image = self.corrupt.decode(content, name)
        if image is None:
            return None
        with random_state_of(*key):
            return dict(inputs=self.transform(image), **label_or_seed(label))


def _expand(shards: str | Sequence[str]) -> list[str]:
    """Expand braces to the single shards; local ones must exist and be complete."""
    import webdataset

    if isinstance(shards, str):
        shards = webdataset.shardlists.expand_urls(shards)
    for shard in shards:
        path = Path(shard)
        if "://" in shard or shard.startswith("pipe:"):
            continue
        if not path.is_file():
            raise UserError(f"Shard {shard} does not exist.")
        if path.suffix == ".tar" and not _has_end(path):
            raise UserError(f"Shard {shard} ends in the middle ({path.stat().st_size} bytes): copy it again.")
    return list(shards)


def _has_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - len(_END_OF_TAR), 0))
        return file.read() == _END_OF_TAR
