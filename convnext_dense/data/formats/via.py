"""VGG Image Annotator: one JSON file of regions.

Source: https://www.robots.ox.ac.uk/~vgg/software/via/ and the files that versions 1 and 2 save.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convnext_dense.data.formats.annotations import Annotations, ellipse_corners, number_at
from convnext_dense.data.formats.finding import ImageIndex, by_split, json_files
from convnext_dense.data.text_files import read_json
from convnext_dense.errors import UserError

NAME = "VGG Image Annotator"
_KEYS = (b'"shape_attributes"', b'"_via_img_metadata"')


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    return list(_files(folder)) or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the annotations depend."""
    yield folder


def read(folder: Path, splits: list[str], _: Path) -> tuple[dict[str, Annotations], list[str]]:
    """Read splits of a folder.

    Returns:
        The objects by split, and the class names, sorted.

    Raises:
        UserError: A JSON file is wrong; the message names the file, the image and the region.
    """
    files, images = _files(folder), ImageIndex(folder)
    found = {split: Annotations(folder) for split in splits}
    for split, annotations in found.items():
        for file in files[split]:
            _read_file(file, images, split, annotations)
    names = sorted({item.name for annotations in found.values() for item in annotations.objects})
    return found, names


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the JSON files of each split."""
    files = [file for file, content in json_files(folder) if any(key in content for key in _KEYS)]
    return by_split(files, folder, is_whole=True) if files else {}


def _read_file(file: Path, images: ImageIndex, split: str, annotations: Annotations) -> None:
    content = read_json(file, "File")
    entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise UserError(f"File {file} must be an object of images.")
    for key, entry in entries.items():
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise UserError(f"File {file}, entry {key!r}, has no 'filename'.")
        image = annotations.add_image(images.find(name, file, split), f"File {file}, entry {key!r},")
        regions = entry.get("regions") or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        for number, region in enumerate(regions):
            _read_region(region, f"File {file}, image {name}, region {number},", image, annotations)


def _read_region(region: Any, source: str, image: tuple[int, int, int], annotations: Annotations) -> None:
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise UserError(f"{source} has no 'shape_attributes'.")
    label = _label(region.get("region_attributes"), source)
    kind = shape.get("name")

    def number(key: str) -> float:
        return number_at(shape.get(key), source, key)

    if kind == "rect":
        x, y = number("x"), number("y")
        annotations.add_box(image, label, (x, y, x + number("width"), y + number("height")))
    elif kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys) or len(xs) < 3:
            raise UserError(f"{source} must have three or more all_points_x, and as many all_points_y.")
        points = zip(xs, ys, strict=True)
        annotations.add_polygons(image, label, [[number_at(v, source, "a place") for point in points for v in point]])
    elif kind in ("circle", "ellipse"):
        keys = ("cx", "cy", "r", "r") if kind == "circle" else ("cx", "cy", "rx", "ry")
        turned = math.degrees(number("theta")) if shape.get("theta") else 0
        annotations.add_polygons(image, label, [ellipse_corners(*map(number, keys), degrees=turned)])
    else:
        annotations.left_out[f"regions of the shape {kind}"] += 1


def _label(attributes: Any, source: str) -> str:
    """Return the class of a region: the value of its one attribute, or that of a name that is usual for it."""
    values = {key: value for key, value in attributes.items() if value} if isinstance(attributes, Mapping) else {}
    chosen = next((values[key] for key in ("class", "label", "type", "name") if key in values), None)
    if chosen is None and len(values) == 1:
        chosen = next(iter(values.values()))
    if isinstance(chosen, Mapping):  # checkboxes
        marked = [name for name, is_marked in chosen.items() if is_marked]
        chosen = marked[0] if len(marked) == 1 else None
    if not isinstance(chosen, str) or not chosen.strip():
        raise UserError(f"{source} has no class among its region_attributes {sorted(values)}.")
    return chosen.strip()
