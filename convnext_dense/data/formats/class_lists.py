"""Classified images: lists of names and labels in CSV files, and class folders without a val folder.

A list has a header with a column of image names and a column of labels, or, as in Roboflow's exports, a column of 0
and 1 per class. It is one file per split (``train.csv``, ``train/_classes.csv``), or one for all, perhaps with a column
of splits.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from convnext_dense.config.datasets import SPLIT_FOLDERS, quote
from convnext_dense.data.held_out import Sample
from convnext_dense.data.image_folder import class_folders, find_samples
from convnext_dense.data.opened_images import READABLE_SUFFIXES
from convnext_dense.data.text_files import read_text
from convnext_dense.errors import UserError

NAME = "Classified images"
_NAME_COLUMNS = (
    "filename",
    "file_name",
    "file",
    "image",
    "image_path",
    "path",
    "filepath",
    "filepaths",
    "image_name",
    "image_id",
    "id",
    "name",
)
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "label_name", "target", "labels", "species", "class_id")
_COLOURS = (("r", "red"), ("g", "green"), ("b", "blue"))
_SPLIT_COLUMNS = ("split", "set", "subset", "partition", "data set")
_MARKS = {"0": False, "0.0": False, "false": False, "": False, "1": True, "1.0": True, "true": True}
_IMAGE_FOLDERS = ("", "images", "img", "data")


class _Row(NamedTuple):
    image: str
    label: str
    split: str
    source: str


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    files = _lists(folder)
    if files:
        found = {split for file, name in files for split in _splits_in(file, name)}
        return [split for split in SPLIT_FOLDERS if split in found] or None
    there = _class_roots(folder)
    return list(there) or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the files and folders on whose content the labels depend."""
    files = _lists(folder)
    yield from (file for file, _ in files)
    if not files:
        yield from _class_roots(folder).values()


def list_samples(folder: Path, splits: Sequence[str]) -> dict[str, list[Sample]]:
    """List the images of splits with their label.

    Raises:
        UserError: A list is wrong or names an image that does not exist; the message names the file and the line.
    """
    files = _lists(folder)
    if not files:
        roots = _class_roots(folder)
        return {
            split: [Sample(Path(path), (names[label],)) for path, label in samples]
            for split in splits
            for samples, names in [find_samples(roots[split])]
        }
    found: dict[str, list[Sample]] = {split: [] for split in splits}
    seen: dict[Path, str] = {}
    for file, name in files:
        for row in _rows(file, name):
            if row.split not in found:
                continue
            image = _find_image(folder, row)
            if image in seen:
                raise UserError(f"{row.source} names the image {image}, which {seen[image]} names too.")
            seen[image] = row.source.removesuffix(",")
            found[row.split].append(Sample(image, (row.label,)))
    return found


def _class_roots(folder: Path, *, has_splits: bool = False) -> dict[str, Path]:
    """Return where the class folders of each split are; they are train where the folder has no splits."""
    there = {}
    for split, names in SPLIT_FOLDERS.items():
        places = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() in names]
        if place := next((path for path in places if class_folders(path)), None):
            there[split] = place
    if there or has_splits:
        return there
    classes = class_folders(folder)
    splits = [names for names in SPLIT_FOLDERS.values() if any(name.lower() in names for name in classes)]
    # Folders of several splits hold images that are not sorted by class.
    is_root = len(splits) < 2 and any(_has_image(folder / name) for name in classes)
    return {"train": folder} if is_root else {}


def _has_image(folder: Path) -> bool:
    return any(path.suffix.lower() in READABLE_SUFFIXES for path in folder.iterdir())


def _lists(folder: Path) -> list[tuple[Path, str | None]]:
    """Return the lists of a folder, each with its split; None for one that has all images."""
    found: list[tuple[Path, str | None]] = []
    for split, names in SPLIT_FOLDERS.items():
        files = [path for name in names for path in (folder / f"{name}.csv", folder / name / "_classes.csv")]
        found += [(file, split) for file in files if file.is_file() and _is_list(file)][:1]
    if found and any(split != "test" for _, split in found):
        return found
    others = [
        file for file in sorted(folder.glob("*.csv")) if _is_list(file) and file not in {path for path, _ in found}
    ]
    unread = [file for file in sorted(folder.glob("*.csv")) if file not in others and not _has_colours(file)]
    if unread and not others and not found and not _class_roots(folder, has_splits=True):
        raise UserError(
            f"{unread[0]} has no column of image names ({', '.join(_NAME_COLUMNS[:5])}) beside one of labels "
            f"({', '.join(_LABEL_COLUMNS[:4])}): name them in its first line."
        )
    if len(others) > 1:
        raise UserError(
            f"{folder} has several lists of images, {quote([file.name for file in others])}: keep one, or name "
            "them train.csv and val.csv."
        )
    return [(file, None) for file in others]


def _is_list(file: Path) -> bool:
    header = _header(file)
    has_labels = _column(header, _LABEL_COLUMNS) is not None or len(header) > 2
    return _column(header, _NAME_COLUMNS) is not None and has_labels and not _has_colours(file)


def _has_colours(file: Path) -> bool:
    """Whether a table is of the colours of label images."""
    header = _header(file)
    return all(_column(header, names) is not None for names in _COLOURS)


def _header(file: Path) -> list[str]:
    first = (read_text(file, "List of images").splitlines() or [""])[0]
    return next(csv.reader([first], delimiter=_delimiter(first)), [])


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    columns = [each.strip().lower() for each in header]
    return next((columns.index(name) for name in names if name in columns), None)


def _splits_in(file: Path, split: str | None) -> set[str]:
    if split is not None:
        return {split}
    if _column(_header(file), _SPLIT_COLUMNS) is None:
        return {"train"}
    return {row.split for row in _rows(file, None)}


def _rows(file: Path, split: str | None) -> Iterator[_Row]:
    header = _header(file)
    text = read_text(file, "List of images")
    name, label, part = (_column(header, names) for names in (_NAME_COLUMNS, _LABEL_COLUMNS, _SPLIT_COLUMNS))
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text.splitlines()[0]))
    next(reader)
    aliases = {alias: key for key, names in SPLIT_FOLDERS.items() for alias in names}
    for row in reader:
        if not row or not any(row):
            continue
        source = f"List of images {file}, line {reader.line_num},"
        if len(row) != len(header):
            raise UserError(f"{source} has {len(row)} values, but the header has {len(header)}.")
        assert name is not None
        own = split or "train"
        if split is None and part is not None:
            own = aliases.get(row[part].strip().lower(), "")
            if not own:
                raise UserError(f"{source} has the split {row[part]!r}: it must be train, val or test.")
        found = row[label].strip() if label is not None else _marked(header, row, {name, part}, source)
        if not found or not row[name].strip():
            raise UserError(f"{source} has no {'label' if row[name].strip() else 'image'}.")
        yield _Row(row[name].strip(), found, own, source)


def _marked(header: Sequence[str], row: Sequence[str], others: set[int | None], source: str) -> str:
    """Return the name of the only column that has a 1."""
    values = {column.strip(): row[place].strip() for place, column in enumerate(header) if place not in others}
    if odd := next((column for column, value in values.items() if value.lower() not in _MARKS), None):
        raise UserError(
            f"{source} has {values[odd]!r} in the column {odd!r}: with a column per class, all must be 0 or 1."
        )
    names = [column for column, value in values.items() if _MARKS[value.lower()]]
    if len(names) != 1:
        raise UserError(f"{source} has {len(names)} classes: an image must have exactly one.")
    return names[0]


def _find_image(folder: Path, row: _Row) -> Path:
    name = row.image.replace("\\", "/")
    bases = [folder / part for part in (*_IMAGE_FOLDERS, *SPLIT_FOLDERS[row.split])]
    for base in bases:
        for suffix in ("", *READABLE_SUFFIXES):
            if (path := base / f"{name}{suffix}").is_file():
                return path
    raise UserError(f"{row.source} names the image {row.image}, which does not exist in {folder} or its image folders.")
