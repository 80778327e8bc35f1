"""Ultralytics YOLO: a ``data.yaml``, and a text file of boxes or polygons for each image.

Other tools write only a list of classes (``classes.txt``, Darknet's ``obj.names``), and images in the usual folders.

Source: https://docs.ultralytics.com/datasets/detect/ and https://docs.ultralytics.com/datasets/segment/
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from convnext_dense.config.datasets import SPLIT_FOLDERS
from convnext_dense.data.formats.annotations import Annotations, number_at
from convnext_dense.data.formats.finding import split_of
from convnext_dense.data.opened_images import READABLE_SUFFIXES
from convnext_dense.data.text_files import read_lines, read_text
from convnext_dense.errors import UserError

NAME = "Ultralytics YOLO"
# Beyond the image by no more than this, of its side, is taken for rounding, as Ultralytics does.
_TOLERANCE = 0.01


class _Export(NamedTuple):
    """What a folder has.

    Attributes:
        file: The file that names the classes.
        names: Class names by label.
        places: Folders and lists of images of each split.
        num_boxed: How many values after the class are of the object's box, where keypoints follow; None without these.
    """

    file: Path
    names: list[str]
    places: dict[str, list[Path]]
    num_boxed: int | None = None


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    export = _find(folder)
    return None if export is None else list(export.places)


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the annotations depend."""
    export = _find(folder)
    assert export is not None
    yield export.file
    for place in (place for places in export.places.values() for place in places):
        yield place
        yield Path(str(place).replace(f"{os.sep}images", f"{os.sep}labels"))


def read(folder: Path, splits: list[str], _: Path) -> tuple[dict[str, Annotations], list[str]]:
    """Read splits of a folder.

    Returns:
        The objects by split, and the class names by label.

    Raises:
        UserError: ``data.yaml`` or a label file is wrong; the message names the file and the line.
    """
    export = _find(folder)
    assert export is not None
    return {split: _read_split(export, split) for split in splits}, export.names


def _find(folder: Path) -> _Export | None:
    file = _find_yaml(folder)
    if file is not None:
        content = _read_yaml(file)
        names = _class_names(content, file)
        keys = {split: next((key for key in words if content.get(key)), None) for split, words in SPLIT_FOLDERS.items()}
        places = {split: _places(content, key, file) for split, key in keys.items() if key is not None}
        # Exports name a test split also where there is none.
        places = {split: found for split, found in places.items() if found or split != "test"}
        num_boxed = 4 if content.get("kpt_shape") else None
        return _Export(file, names, places or _usual_places(folder), num_boxed)
    files = [folder / "obj.names", folder / "classes.txt", *sorted(folder.glob("*.names"))]
    file = next((file for file in files if file.is_file()), None)
    if file is None or not _have_labels(places := _usual_places(folder)):
        return None
    names = read_lines(file)
    _check_names(names, f"List of classes {file}")
    return _Export(file, names, places)


def _usual_places(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of images of each split, where no file names them; one without splits is train."""
    found = {}
    for split, words in SPLIT_FOLDERS.items():
        lists = [folder / f"{word}.txt" for word in words]
        if listed := [place for place in lists if place.is_file() and _leads_to_images(place)]:
            found[split] = listed
    if found:
        return found
    for parent in (folder / "images", folder):
        for place in sorted(parent.iterdir()) if parent.is_dir() else ():
            split_name = split_of(place / "image", folder)
            if place.is_dir() and split_name is not None and place.name.lower() != "labels":
                found.setdefault(split_name, []).append(place / "images" if (place / "images").is_dir() else place)
        if found:
            return found
    return {"train": [folder / "images" if (folder / "images").is_dir() else folder]}


def _leads_to_images(place: Path) -> bool:
    first = next(_list_images(place), None)
    return first is not None and first[0].suffix.lower() in READABLE_SUFFIXES and first[0].is_file()


def _have_labels(places: Mapping[str, list[Path]]) -> bool:
    """Whether one of the first images of a split has a label file."""
    for place in (place for each in places.values() for place in each):
        first = itertools.islice(_list_images(place), 100)
        if any(label_file(image).is_file() for image, _ in first):
            return True
    return False


def _find_yaml(folder: Path) -> Path | None:
    files = [
        folder / "data.yaml",
        folder / "dataset.yaml",
        *sorted(folder.glob("*.yaml")),
        *sorted(folder.glob("*.yml")),
    ]
    for file in files:
        if file.is_file():
            text = read_text(file, "Data file")
            if "names:" in text and any(f"{key}:" in text for key in (*SPLIT_FOLDERS, "nc")):
                return file
    return None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(read_text(file, "Data file"), yaml.BaseLoader)  # text, so that a class can be named "on"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}," if mark else ""
        raise UserError(f"Data file {file}{line} is not YAML: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"Data file {file} must have the keys names, train and val.")
    return content


def _class_names(content: Mapping[str, Any], file: Path) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(map(str, range(len(names)))):
            raise UserError(
                f"Data file {file} numbers its names {', '.join(list(names)[:10])}: they must be 0, 1, 2, ..."
            )
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise UserError(f"Data file {file} has no list of class names under 'names'.")
    names = [str(name) for name in names]
    _check_names(names, f"Data file {file}")
    return names


def _check_names(names: list[str], source: str) -> None:
    if not names:
        raise UserError(f"{source} names no class.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{source} names the class {twice!r} twice.")


def _places(content: Mapping[str, Any], split: str, file: Path) -> list[Path]:
    """Return the folders and lists of images of a split."""
    given = content.get(split)
    places = given if isinstance(given, list) else [given] if given else []
    found = []
    for place in places:
        if not isinstance(place, str):
            raise UserError(f"Data file {file} has {place!r} under '{split}': it must be a folder or a list of images.")
        path = content.get("path")
        bases = [Path(str(path)), file.parent / str(path), file.parent] if path else [file.parent]
        tried = [base / place for base in bases]
        # Roboflow writes ../train/images for a folder that lies beside the file.
        tried += [file.parent / place.removeprefix("../")]
        existing = next((each for each in tried if each.exists()), None)
        if existing is None and split in SPLIT_FOLDERS["test"]:
            continue
        if existing is None:
            raise UserError(f"Data file {file} names {place} under '{split}', which does not exist.")
        found.append(Path(os.path.abspath(existing)))
    return found


def _list_images(place: Path) -> Iterator[tuple[Path, str]]:
    """Yield the images of a folder or of a list, and what names them."""
    if place.is_file():
        for number, line in enumerate(read_text(place, "List of images").splitlines(), start=1):
            if line.strip():
                name = line.strip().replace("\\", "/")
                yield _listed_image(name, place.parent), f"List of images {place}, line {number},"
        return
    for parent, folders, files in os.walk(place, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(READABLE_SUFFIXES):
                yield Path(parent, name), f"Folder {place}"


def _listed_image(name: str, folder: Path) -> Path:
    """Return an image of a list: as it is named, or else without the first folders, which an export may lack."""
    parts = Path(name).parts
    tried = [folder / name, *(folder.joinpath(*parts[start:]) for start in range(1, len(parts)))]
    return Path(os.path.abspath(next((path for path in tried if path.is_file()), tried[0])))


def label_file(image: Path) -> Path:
    """Return the label file of an image: the last folder ``images`` becomes ``labels``, and the ending ``.txt``.

    Where there is no such file and one is beside the image, that one.
    """
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    named, beside = Path(*parts).with_suffix(".txt"), image.with_suffix(".txt")
    return beside if not named.is_file() and beside.is_file() else named


def _read_split(export: _Export, split: str) -> Annotations:
    names, places = export.names, export.places[split]
    images = [found for place in places for found in _list_images(place)]
    if not images:
        raise UserError(f"There is no image in the {split} split of {export.file.parent}: {places[0]}.")
    root = Path(os.path.commonpath([path.parent for path, _ in images]))
    annotations = Annotations(root)
    for path, source in images:
        image = annotations.add_image(path, source)
        labels = label_file(path)
        if not labels.is_file():
            annotations.left_out["images without a label file are backgrounds"] += 1
            continue
        seen = set()
        for number, line in enumerate(read_text(labels, "Label file").splitlines(), start=1):
            if not line.strip():
                continue
            if line in seen:
                annotations.left_out["lines that occur twice"] += 1
                continue
            seen.add(line)
            values = line.split()
            if export.num_boxed is not None and len(values) > 1 + export.num_boxed:
                annotations.left_out["keypoints of objects"] += 1
                values = values[: 1 + export.num_boxed]
            _read_line(values, f"Label file {labels}, line {number},", image, names, annotations)
    return annotations


def _read_line(
    values: list[str], source: str, image: tuple[int, int, int], names: list[str], annotations: Annotations
) -> None:
    numbers = [number_at(value, source, "a value") for value in values]
    label, *places = numbers
    if label != int(label) or not 0 <= label < len(names):
        raise UserError(f"{source} has the class {values[0]}: it must be a whole number from 0 to {len(names) - 1}.")
    if len(places) != 4 and (len(places) < 6 or len(places) % 2):
        raise UserError(
            f"{source} has {len(values)} values: a class and x, y, width, height, or a class and three corners or more."
        )
    if min(places) < -_TOLERANCE or max(places) > 1 + _TOLERANCE:
        wrong = min(places) if min(places) < 0 else max(places)
        raise UserError(f"{source} has the place {wrong:g}: it must be a share of the image's side, from 0 to 1.")
    _, height, width = image
    name = names[int(label)]
    if len(places) == 4:
        x, y, w, h = (value * side for value, side in zip(places, (width, height, width, height), strict=True))
        annotations.add_box(image, name, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    else:
        polygon = [value * (width, height)[place % 2] for place, value in enumerate(places)]
        annotations.add_polygons(image, name, [polygon])
