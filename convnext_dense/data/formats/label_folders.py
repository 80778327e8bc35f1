"""Folders of images and label images, in every layout and of every kind that tools write.

Labels are class numbers, palettes, 0 and 255, or colours with a table (see ``class_tables``), in PNG, TIFF, BMP or
NumPy's files. Among the layouts are those of CamVid, Roboflow, Datumaro and mmsegmentation. A label has the name of its
image, to which tools add ``_mask``, ``_L`` and the like. A folder without splits is one split, ``train``.

Source: https://roboflow.com/formats/semantic-segmentation-masks, https://github.com/alexgkendall/SegNet-Tutorial.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from convnext_dense.config.datasets import SPLIT_FOLDERS, quote
from convnext_dense.data.checks.inspection import NUM_OPENED, evenly_spread
from convnext_dense.data.formats.class_tables import ClassTable, find_table, read_table
from convnext_dense.data.formats.label_images import LABEL_SUFFIXES, Pair, values_of
from convnext_dense.data.opened_images import IMAGE_SUFFIXES, READABLE_SUFFIXES
from convnext_dense.errors import UserError

NAME = "Label images"
_ENDINGS = re.compile(r"[_.-]?(mask|masks|label|labels|labelids|annotation|annot|gt|seg|segmentation|L|P)$")
# Where images and labels of a split are; {} is its name. Without {} there is one split.
_LAYOUTS = (
    ("{}", "semantic/{}"),
    ("images/{}", "labels/{}"),
    ("img_dir/{}", "ann_dir/{}"),
    ("images/{}", "annotations/{}"),
    ("images/{}", "masks/{}"),
    ("{}", "{}annot"),
    ("{}", "{}_labels"),
    ("{}", "{}_masks"),
    ("{}/images", "{}/labels"),
    ("{}/images", "{}/masks"),
    ("{}/images", "{}/annotations"),
    ("{}/image", "{}/label"),
    ("{}/data", "{}/labels"),
    ("{}", "{}"),
    ("images", "labels"),
    ("images", "masks"),
    ("images", "annotations"),
    ("image", "label"),
    ("img", "mask"),
)
_ADE_NAMES = ("training", "validation", "testing")
# Class 11 of CamVid in 12 classes is void; its usual files have no table.
_CAMVID = [
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
]
_CAMVID_VOID = 11


class LabelFolders(NamedTuple):
    """Folders of the images and the labels of a split, which may be the same.

    Attributes:
        images: The folder of the images.
        labels: The folder of the labels.
        ignores_zero: Whether label 0 is ignored, as in ADE20K.
    """

    images: Path
    labels: Path
    ignores_zero: bool = False


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    return list(_folders(folder)) or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the labels depend."""
    for found in _folders(folder).values():
        yield from found[:2]
        if (table := find_table(found.images, found.images.parent)) is not None:
            yield table
    if (table := find_table(folder)) is not None:
        yield table


def list_pairs(folder: Path, split: str) -> list[Pair]:
    """List the images of a split with their labels, in the order of their names.

    Raises:
        UserError: An image has no label or several, or there is no image.
    """
    images, labels, _ = _folders(folder)[split]
    label_of = _labels_by_image(labels, is_shared=images == labels)
    are_labels = set(label_of.pop("", ()))
    pairs, missing = [], []
    suffixes = IMAGE_SUFFIXES if images == labels else READABLE_SUFFIXES
    for image in _list_files(images, suffixes):
        name = image.relative_to(images).with_suffix("").as_posix()
        if image in are_labels:
            continue
        found = label_of.get(name, [])
        if len(found) > 1:
            raise UserError(f"Image {image} has several labels: {quote([str(path) for path in found])}.")
        if not found and split != "test":
            missing.append(image)
        pairs.append(Pair(image, found[0] if found else None))
    if not pairs:
        raise UserError(f"There is no image in {images}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    if missing:
        raise UserError(
            f"{len(missing)} of {len(pairs)} images of {images} have no label in {labels}, such as "
            f"{quote([path.name for path in missing], 3)}."
        )
    if any(pair.label is None for pair in pairs) and any(pair.label for pair in pairs):
        first = next(pair.image for pair in pairs if pair.label is None)
        raise UserError(f"Image {first} has no label in {labels}, and others have.")
    return pairs


def class_table(folder: Path, pairs: Sequence[Pair], names: Sequence[str] | None) -> tuple[ClassTable, str] | None:
    """Return the classes of a folder's labels and where they are from; None if nothing names them.

    Args:
        folder: The folder.
        pairs: Its images and labels.
        names: Class names that replace those of the folder.
    """
    places = [place for found in _folders(folder).values() for place in (found.images, found.images.parent)]
    file = find_table(folder, *(place for place in places if folder in place.parents))
    if names:
        table, source = ClassTable.of_names(names), "--classes"
    elif file is not None:
        table, source = read_table(file), str(file)
    elif any(found.labels.name.endswith("annot") for found in _folders(folder).values()):
        table = ClassTable.of_names(_CAMVID)
        return table._replace(ignored=table.ignored | {_CAMVID_VOID}), "CamVid"
    else:
        return None
    if names and file is not None and (known := read_table(file)).colours and len(known.names) == len(names):
        table = known._replace(names=tuple(names))
    if any(found.ignores_zero for found in _folders(folder).values()):
        values = tuple(value + 1 for value in table.values)
        return table._replace(values=values, ignored=table.ignored | {0}), source
    return (table if table.colours else _as_masks(table, pairs)), source


def _as_masks(table: ClassTable, pairs: Sequence[Pair]) -> ClassTable:
    """Return the table for labels of 0 and 255, or of a single named class beside the background, where they are so."""
    if len(table.names) > 2 or table.values != tuple(range(len(table.names))):
        return table
    labels = [pair.label for pair in pairs if pair.label is not None]

    def is_other(found: set[int]) -> bool:
        return not found <= {0, 255}

    sample = evenly_spread(labels, NUM_OPENED)
    are_masks = not is_other(values_of(sample, is_other)) and not is_other(found := values_of(labels, is_other))
    names = table.names if len(table.names) == 2 else ("background", *table.names)
    if are_masks and 255 in found:
        return ClassTable(names, (0, 255), ignored=frozenset())
    return table if len(table.names) == 2 else ClassTable.of_names(names)


def _folders(root: Path) -> dict[str, LabelFolders]:
    """Find the folders of each split in the layout that has labels of the most splits."""
    best: dict[str, LabelFolders] = {}
    for images, labels in _LAYOUTS:
        found: dict[str, LabelFolders] = {}
        for split, names in SPLIT_FOLDERS.items() if "{}" in images + labels else [("train", ("",))]:
            for name in names:
                is_ade = name in _ADE_NAMES and labels == "annotations/{}"
                pair = LabelFolders(root / images.format(name), root / labels.format(name), is_ade)
                if pair.images.is_dir() and pair.labels.is_dir() and _has_labels(pair):
                    found.setdefault(split, pair)
        if len(found) > len(best):
            best = found
    return best


def _has_labels(folders: LabelFolders) -> bool:
    if folders.images != folders.labels:
        return next(iter(_files(folders.labels, LABEL_SUFFIXES)), None) is not None
    # Labels beside their images: at least one pair of names.
    names = {path.stem for path in _files(folders.images, IMAGE_SUFFIXES)}
    return any(_ENDINGS.search(name) and _ENDINGS.sub("", name) in names for name in names)


def _labels_by_image(folder: Path, *, is_shared: bool) -> dict[str, list[Path]]:
    """Return the labels of each image, by its path without an ending; all labels by ``""`` if they are among images."""
    found: dict[str, list[Path]] = {}
    files = _list_files(folder, LABEL_SUFFIXES)
    stems = {path.relative_to(folder).with_suffix("").as_posix() for path in _list_files(folder, IMAGE_SUFFIXES)}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        short = _ENDINGS.sub("", name)
        if is_shared:
            if short == name or short not in stems:
                continue
            found.setdefault("", []).append(path)
            found.setdefault(short, []).append(path)
        else:
            found.setdefault(name, []).append(path)
            if short != name:
                found.setdefault(short, []).append(path)
    return found


def _files(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in names:
            if name.lower().endswith(tuple(suffixes)) and not name.startswith("."):
                yield Path(parent, name)


def _list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(_files(folder, suffixes))
