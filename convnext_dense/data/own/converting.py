"""Converts a folder of one's own data to the layout that a task reads, once, into the folder of a run."""

import contextlib
import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from convnext_dense.config.datasets import quote
from convnext_dense.data.conversions import DESCRIPTION, keep
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.formats import FORMATS, recognise
from convnext_dense.data.formats.annotations import Annotations
from convnext_dense.data.formats.class_tables import MAX_CLASSES, ClassTable, read_table
from convnext_dense.data.formats.finding import walk
from convnext_dense.data.formats.label_images import LabelDecoder, LabelImages, Pair
from convnext_dense.data.formats.painting import paint_objects
from convnext_dense.data.held_out import Sample, hold_out
from convnext_dense.data.image_size import read_size
from convnext_dense.data.opened_images import IMAGE_SUFFIXES
from convnext_dense.errors import UserError
from convnext_dense.files import written_whole
from convnext_dense.terminal import track


def convert(
    data: DataFolder, task: str, cache: Path, *, trained: Sequence[str] | None = None
) -> tuple[Path, str] | None:
    """Convert a folder in a format of another tool, unless this was done before and nothing changed since.

    Args:
        data: The folder, which is only read.
        task: A key of ``formats.FORMATS``.
        cache: Folder of all conversions.
        trained: Class names of a checkpoint, for label images whose classes have no names in the folder.

    Returns:
        The folder of the converted data, and one line about what was converted and what was left out; None if the
        folder has no format of another tool.

    Raises:
        UserError: A file is wrong; the message names the file and the place in it.
    """
    cache = cache.absolute()
    recognised = recognise(data, task)
    if recognised is None:
        return None
    data = data._replace(path=os.path.abspath(data.path))  # converted files keep it, and are read from elsewhere
    module, splits = recognised
    if data.val_share is not None and "val" in splits:
        raise UserError(f"--val-share makes a val split, and {data.path} has one: leave the option out.")
    write = _WRITERS[task]
    key = module.__name__.rpartition(".")[2]
    sources = [*module.source_files(Path(data.path)), *([Path(data.colors)] if data.colors else [])]
    settings = (tuple(data), task, trained if task == "segmentation" else None)
    out, line = keep(
        cache,
        f"{task}-{key}",
        sources,
        settings,
        lambda folder: write(data, module, splits, folder, trained) + _others(data, task, module),
    )
    return out, f"{data.path}: {line} The converted annotations are in {out}."


def _others(data: DataFolder, task: str, module: ModuleType) -> str:
    """Return a sentence about the other formats that a folder has files of; empty if there are none."""
    found = []
    for key, other in FORMATS[task].items():
        with contextlib.suppress(UserError):
            if other is not module and other.find_splits(Path(data.path)):
                found.append(key)
    names = " or ".join(found)
    return f" It also has files of other formats, which --data-format {names} reads instead." if found else ""


def _write_objects(data: DataFolder, module: ModuleType, splits: list[str], out: Path, _: Any) -> str:
    found, names = module.read(Path(data.path), splits, out)
    dropped = _ignored_names(data, names)
    for annotations in found.values():
        kept = [item for item in annotations.objects if item.name not in dropped]
        if len(kept) < len(annotations.objects):
            annotations.left_out["objects of ignored labels"] += len(annotations.objects) - len(kept)
        annotations.objects = kept
    names = [name for name in names if name not in dropped]
    if not names:
        raise UserError(f"{data.path} has no objects: there is no class to learn.")
    found, held_line = _held_out(data, found)
    for split, annotations in found.items():
        annotations.write(out / f"instances_{split}.json", names)
    read = {os.path.join(each.root, image["file_name"]) for each in found.values() for image in each.images}
    _count_unread(data, read, next(iter(found.values())).left_out)
    images = sum(len(annotations.images) for annotations in found.values())
    objects = sum(len(annotations.objects) for annotations in found.values())
    with_objects = sum(len({item.image_id for item in annotations.objects}) for annotations in found.values())
    empty = f" ({images - with_objects:,} without objects)" if images > with_objects else ""
    return _summary(module.NAME, found, f"{images:,} images{empty}, {objects:,} objects") + held_line


def _count_unread(data: DataFolder, read: set[str], left_out: Counter[str]) -> None:
    """Count the images of a folder that nothing names."""
    number = sum(os.fspath(path) not in read for path in walk(Path(data.path), IMAGE_SUFFIXES))
    if number:
        left_out["images of the folder that are not read"] += number


def _ignored_names(data: DataFolder, names: Sequence[str]) -> set[str]:
    unknown = [label for label in data.ignored_labels if label not in names]
    if unknown:
        raise UserError(f"--ignore-labels {' '.join(unknown)}: the classes of {data.path} are {quote(names)}.")
    return set(data.ignored_labels)


def _held_out(data: DataFolder, found: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Divide train into train and val if that is asked for."""
    if data.val_share is None:
        return found, ""
    train = found["train"]
    held, line = hold_out(train.samples, data.val_share, data.seed)
    parts = dict(train=train.part(set(range(len(train.samples))) - held), val=train.part(held))
    parts["train"].left_out.update(train.left_out)
    return {**parts, **{split: each for split, each in found.items() if split != "train"}}, f" {line}"


def _summary(name: str, found: Mapping[str, Any], what: str) -> str:
    counts: Counter[str] = Counter()
    for each in found.values():
        counts.update(each.left_out)
    left_out = "".join(f", {number:,} {reason}" for reason, number in counts.items())
    splits = "1 split" if len(found) == 1 else f"{len(found)} splits"
    return f"{name}: {splits} ({', '.join(found)}), {what}{left_out}."


def _write_labels(
    data: DataFolder, module: ModuleType, splits: list[str], out: Path, trained: Sequence[str] | None
) -> str:
    if hasattr(module, "read"):
        objects, names = module.read(Path(data.path), splits, out)
        table = _without_ignored(
            ClassTable.of_names(["background", *(name for name in names if name != "background")]), data
        )
        found = {
            split: _paint(each, names, table, data.overlaps, out / "labels" / split) for split, each in objects.items()
        }
    else:
        pairs = {split: module.list_pairs(Path(data.path), split) for split in splits}
        table, source = _table_of(data, module, [pair for each in pairs.values() for pair in each], trained)
        decoder = LabelDecoder(table, source)
        found = {split: _decode(each, decoder, out / "labels" / split) for split, each in pairs.items()}
    found, held_line = _held_out(data, found)
    for split, images in found.items():
        with written_whole(out / f"{split}.txt") as partial:
            partial.write_text("".join(f"{name}\n" for name in images.names), encoding="utf-8")
    splits_in = {split: dict(images=str(images.root), labels=images.labels) for split, images in found.items()}
    _describe(out, table.names, palette=table.colours, splits=splits_in)
    num_images = sum(len(images.names) for images in found.values())
    kind = f"{module.NAME}, painted as label images" if hasattr(module, "read") else module.NAME
    return _summary(kind, found, f"{num_images:,} images, {len(table.names)} classes") + held_line


def _table_of(
    data: DataFolder, module: ModuleType, pairs: Sequence[Pair], trained: Sequence[str] | None
) -> tuple[ClassTable, str]:
    if data.colors:
        table, source = read_table(Path(data.colors)), data.colors
        if table.colours is None:
            raise UserError(f"--colors {data.colors} has no colours: write lines of 'name red green blue'.")
    else:
        known = module.class_table(Path(data.path), pairs, data.classes)
        if known is None and trained:
            known = module.class_table(Path(data.path), pairs, trained)
        if known is None:
            raise UserError(
                f"The classes of {data.path} have no names: write them into {Path(data.path, 'classes.txt')}, one per "
                "line by label, or give them with --classes NAME ..."
            )
        table, source = known
    return _without_ignored(table, data), source


def _without_ignored(table: ClassTable, data: DataFolder) -> ClassTable:
    table = table.without(data.ignored_labels) if data.ignored_labels else table
    if len(table.names) > MAX_CLASSES:
        raise UserError(f"{data.path} has {len(table.names)} classes: label images have {MAX_CLASSES} at most.")
    return table


def _decode(pairs: Sequence[Pair], decoder: LabelDecoder, folder: Path) -> LabelImages:
    images = LabelImages(Path(os.path.commonpath([pair.image.parent for pair in pairs])), folder)
    for image, label in track(pairs, f"labels of {images.root}"):
        numbers = None if label is None else decoder(label)
        if numbers is not None:
            size = read_size(image, are_turned=True)
            if numbers.shape not in (size, size[::-1]):
                raise UserError(
                    f"Label {label} is {numbers.shape[1]}x{numbers.shape[0]} pixels, but its image {image} is "
                    f"{size[1]}x{size[0]}."
                )
        images.add(image, numbers)
    return images


def _paint(found: Annotations, names: Sequence[str], table: ClassTable, overlaps: str, folder: Path) -> LabelImages:
    numbers = dict.fromkeys(names, 255) | {name: number for number, name in enumerate(table.names)}
    images = LabelImages(found.root, folder)
    images.left_out.update(found.left_out)
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in found.images}
    for item in found.objects:
        by_image[item.image_id].append(item.entry)
    background = numbers.get("background", 255)
    for image in track(found.images, f"painting labels of {found.root}"):
        painted = paint_objects(by_image[image["id"]], image, numbers, background=background, overlaps=overlaps)
        images.add(found.root / image["file_name"], painted)
    return images


def _write_samples(data: DataFolder, module: ModuleType, splits: list[str], out: Path, _: Any) -> str:
    listed = module.list_samples(Path(data.path), splits)
    present = {str(sample.classes[0]) for samples in listed.values() for sample in samples}
    dropped = _ignored_names(data, sorted(present))
    names = list(data.classes or _natural(present - dropped))
    if unknown := sorted(present - set(names) - dropped):
        raise UserError(f"{data.path} has images of {quote(unknown)}, which --classes does not name.")
    found = {
        split: SampleList([each for each in samples if each.classes[0] not in dropped])
        for split, samples in listed.items()
    }
    found, held_line = _held_out(data, found)
    root = os.path.commonpath([sample.image.parent for each in found.values() for sample in each.samples])
    for split, each in found.items():
        with written_whole(out / f"{split}.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                (sample.image.relative_to(root).as_posix(), sample.classes[0]) for sample in each.samples
            )
    _describe(out, names, splits={split: dict(images=root) for split in found})
    num_images = sum(len(each.samples) for each in found.values())
    return _summary(module.NAME, found, f"{num_images:,} images, {len(names)} classes") + held_line


class SampleList:
    """Classified images of a split."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)
        self.left_out: Counter[str] = Counter()

    def part(self, places: set[int]) -> "SampleList":
        """Return the samples at some places of the list."""
        return SampleList([sample for place, sample in enumerate(self.samples) if place in places])


def _natural(names: set[str]) -> list[str]:
    from timm.data.readers.reader_image_folder import natural_key

    return sorted(names, key=natural_key)


def _describe(out: Path, classes: Sequence[str], **more: Any) -> None:
    with written_whole(out / DESCRIPTION) as partial:
        partial.write_text(json.dumps(dict(classes=list(classes), **more)), encoding="utf-8")


_WRITERS = {"detection": _write_objects, "segmentation": _write_labels, "classification": _write_samples}
