"""Images in one folder per class.

    ROOT/CLASS/*.jpg

Letters: H, W are the height and width of a transformed image in pixels.

Source: the file search and the order of classes are timm's ``find_images_and_targets``.
Differs: the augmentation of an image depends only on the seed, the epoch and its index; corrupt images are counted.
"""

import csv
import io
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size
from timm.data.readers.reader_image_folder import find_images_and_targets, natural_key
from torch.utils.data import Dataset

from convnext_dense.config.datasets import quote
from convnext_dense.data.corrupt_images import CorruptImages
from convnext_dense.data.opened_images import IMAGE_SUFFIXES
from convnext_dense.data.text_files import read_text
from convnext_dense.data.transforms import build_transform, random_state_of
from convnext_dense.errors import UserError
from convnext_dense.registry import DATASETS

LAYOUT = "    DIR/train/CLASS/*.jpg  DIR/val/CLASS/*.jpg"


@DATASETS.register_module()
class ImageFolder(Dataset):
    """Map-style data set of the images in class folders.

    Args:
        root: Folder with one folder per class.
        transform: Arguments of timm's ``create_transform``.
        ann_file: CSV file of image names relative to ``root`` and class names, instead of the class folders.
        metainfo: ``dict(classes=...)``, class names in label order; by default all folders, in timm's (natural)
            order.
        max_corrupt_rate: Share of the images that may be corrupt; each is replaced by the next valid one. By default,
            the first corrupt image is an error.

    Attributes:
        metainfo: ``dict(classes=...)``, which mmengine stores in checkpoints.

    Raises:
        UserError: The folder or its images are missing, an image is not in a class folder, or a class folder is
            unknown.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Mapping[str, Any],
        *,
        ann_file: str | os.PathLike | None = None,
        metainfo: Mapping[str, Any] | None = None,
        max_corrupt_rate: float = 0.0,
    ) -> None:
        samples, names = find_samples(Path(root), (metainfo or {}).get("classes"), ann_file)
        self._prepare(samples, transform, max_corrupt_rate)
        self.metainfo = dict(classes=names)

    def _prepare(
        self, samples: Sequence[tuple[str, int | None]], transform: Mapping[str, Any], max_corrupt_rate: float
    ) -> None:
        """Set what does not depend on where paths and labels come from; images without a label have None."""
        self.samples = samples
        self.transform = build_transform(transform)
        self.corrupt = CorruptImages(-(-len(self.samples) // get_world_size()), max_corrupt_rate)
        # Seed and epoch number, in shared memory, so that persistent workers see the next epoch.
        self._epoch = torch.zeros(2, dtype=torch.int64).share_memory_()

    def start_epoch(self, seed: int, epoch: int, batch_size: int = 1) -> None:
        """Set the seed and the number of the coming epoch; the training loop calls this.

        ``batch_size`` is for data sets that distribute batches over workers themselves; here the sampler does.
        """
        self._epoch.copy_(torch.tensor([seed, epoch]))
        self.corrupt.start_epoch()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``inputs``, a tensor (3, H, W), and ``labels``, an integer, or ``seeds`` if there are no classes.

        Raises:
            UserError: More than ``max_corrupt_rate`` of the images are corrupt.
        """
        for number in range(index, index + len(self.samples)):
            path, label = self.samples[number % len(self.samples)]
            try:
                content = Path(path).read_bytes()
            except OSError as error:
                self.corrupt.skip(path, error)
                continue
            image = self.corrupt.decode(content, path)
            if image is not None:
                with random_state_of(*self._epoch.tolist(), index):
                    return dict(inputs=self.transform(image), **label_or_seed(label))
        raise UserError(f"None of the {len(self.samples)} images can be decoded, the first being {self.samples[0][0]}.")


def label_or_seed(label: int | None) -> dict[str, int]:
    """Return ``labels`` of an item, or, if it has none, ``seeds``: a random number for what a model draws about it."""
    return dict(seeds=random.getrandbits(62)) if label is None else dict(labels=label)


def class_folders(root: Path) -> list[str]:
    """List the sub-folders of a folder.

    Raises:
        UserError: The folder does not exist.
    """
    if not root.is_dir():
        raise UserError(f"Image folder {root} does not exist.")
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))


def is_hidden(name: str) -> bool:
    """Whether a folder is one of a program, such as ``.ipynb_checkpoints``, and no class."""
    return name.startswith(".") or name == "__MACOSX"


def find_images(root: Path) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """List the images of class folders with timm's search: (path, label) of each, and the label of each class."""
    samples, labels = find_images_and_targets(str(root), types=IMAGE_SUFFIXES)
    found = {label: name for name, label in labels.items()}
    shown = [(path, found[label]) for path, label in samples if not _is_in_hidden(path, root)]
    used = {name for _, name in shown}
    labels = {name: label for label, name in enumerate(name for name in found.values() if name in used)}
    return [(path, labels[name]) for path, name in shown], labels


def _is_in_hidden(path: str, root: Path) -> bool:
    return any(is_hidden(part) for part in Path(path).relative_to(root).parts[:-1])


def find_samples(
    root: Path, classes: Sequence[str] | None = None, ann_file: str | os.PathLike | None = None
) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """List the images of a folder with their labels.

    Args:
        root: Folder with one folder per class.
        classes: Class names in label order, some of which may have no image here; by default all folders, in natural
            order.
        ann_file: See ``ImageFolder``.

    Returns:
        (path, label) of every image, and the class names.

    Raises:
        UserError: As for ``ImageFolder``, or a folder is not one of ``classes``.
    """
    if ann_file is not None:
        return _read_list(root, Path(ann_file), classes)
    folders = class_folders(root)
    samples, labels = find_images(root)
    if not samples:
        raise UserError(f"There is no image in the class folders of {root}. Expected: {root}/CLASS/*.jpg")
    stray = sorted(set(labels) - set(folders))
    if stray:
        where = next(path for path, label in samples if label == labels[stray[0]])
        raise UserError(f"Image {where} is not in a class folder. Expected: {root}/CLASS/*.jpg")
    found = tuple(labels)
    names = tuple(sorted(folders, key=natural_key))  # those without images too
    if classes is None:
        position = {name: label for label, name in enumerate(names)}
        return [(path, position[found[label]]) for path, label in samples], names
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise UserError(
            f"{root / unknown[0]} is not one of the {len(classes)} classes, which are {quote(classes)}: rename "
            "it, remove it, or name the classes with --classes."
        )
    position = {name: label for label, name in enumerate(classes)}
    return [(path, position[found[label]]) for path, label in samples], tuple(classes)


def read_names(ann_file: str | os.PathLike) -> dict[str, str]:
    """Return the class name of each image in a list, by the image's name."""
    return dict(csv.reader(io.StringIO(read_text(ann_file, "List of images"), newline="")))


def _read_list(
    root: Path, ann_file: Path, classes: Sequence[str] | None
) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    rows = list(csv.reader(io.StringIO(read_text(ann_file, "List of images"), newline="")))
    names = tuple(classes or sorted({row[1] for row in rows}))
    position = {name: label for label, name in enumerate(names)}
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[1] not in position:
            raise UserError(
                f"List of images {ann_file}, line {number}, must have an image and one of the {len(names)} classes, "
                f"which are {quote(names)}."
            )
    return [(str(root / name), position[label]) for name, label in rows], names
