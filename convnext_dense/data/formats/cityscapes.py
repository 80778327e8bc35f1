"""Cityscapes: images in ``leftImg8bit``, labels in ``gtFine`` (or ``gtCoarse``), both in folders of splits and cities.

Source: https://github.com/mcordts/cityscapesScripts, scripts/helpers/labels.py, for the numbers of the 19 classes in
files of all labels (``labelIds``).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import ConfigDict

from convnext_dense.config.datasets import SPLIT_FOLDERS, known_class_names
from convnext_dense.data.formats.class_tables import ClassTable, find_table, read_table
from convnext_dense.data.formats.label_images import Pair
from convnext_dense.errors import UserError

NAME = "Cityscapes"
_IMAGE = "_leftImg8bit"
_LABEL_FOLDERS = ("gtFine", "gtCoarse")
_KINDS = ("labelTrainIds", "labelIds")
# The value of each of the 19 classes in files of all labels; all other values up to 33 are not evaluated.
_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    found = [split for split in SPLIT_FOLDERS if _images_of(folder, split)]
    return found if found and any((folder / name).is_dir() for name in _LABEL_FOLDERS) else None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the labels depend."""
    yield from (folder / name for name in ("leftImg8bit", *_LABEL_FOLDERS))
    if (table := find_table(folder)) is not None:
        yield table


def list_pairs(folder: Path, split: str) -> list[Pair]:
    """List the images of a split with their labels, in the order of their names.

    Raises:
        UserError: An image has no label.
    """
    pairs = []
    for image in _images_of(folder, split):
        stem, city = image.stem.removesuffix(_IMAGE), image.parent.relative_to(folder / "leftImg8bit")
        label = next(
            (
                path
                for name in _LABEL_FOLDERS
                for kind in _KINDS
                if (path := folder / name / city / f"{stem}_{name}_{kind}.png").is_file()
            ),
            None,
        )
        if label is None and split != "test":
            raise UserError(
                f"Image {image} has no label {folder / _LABEL_FOLDERS[0] / city / f'{stem}_gtFine_labelTrainIds.png'} "
                "or _labelIds.png."
            )
        pairs.append(Pair(image, label))
    has_train_ids = {"labelTrainIds" in pair.label.name for pair in pairs if pair.label is not None}
    if len(has_train_ids) > 1:
        raise UserError(f"Some labels of {folder} are labelTrainIds and some labelIds: write one of the two for all.")
    return pairs


def class_table(folder: Path, pairs: Sequence[Pair], names: Sequence[str] | None) -> tuple[ClassTable, str] | None:
    """Return the classes of a folder's labels and where they are from; the 19 of Cityscapes where there is no table."""
    file = find_table(folder)
    if names:
        return ClassTable.of_names(names), "--classes"
    if file is not None:
        return read_table(file)._replace(colours=None), str(file)
    known = tuple(known_class_names(ConfigDict(type="mmseg.CityscapesDataset")) or ())
    if all("labelTrainIds" in pair.label.name for pair in pairs if pair.label is not None):
        return ClassTable.of_names(known), "Cityscapes"
    return ClassTable(known, _IDS, ignored=frozenset({*range(34), 255} - set(_IDS))), "Cityscapes"


def _images_of(folder: Path, split: str) -> list[Path]:
    return sorted(
        image
        for name in SPLIT_FOLDERS[split]
        for image in (folder / "leftImg8bit" / name).rglob(f"*{_IMAGE}.*")
        if image.is_file()
    )
