"""LabelMe: a JSON file of shapes for each image, which is beside it or embedded.

Source: https://github.com/wkentaro/labelme/blob/v5.5.0/labelme/_label_file.py for the keys, and
https://github.com/wkentaro/labelme/blob/v5.5.0/labelme/utils/shape.py for the shapes.
"""

import base64
import binascii
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convnext_dense.data.formats.annotations import Annotations, ellipse_corners, number_at
from convnext_dense.data.formats.finding import ImageIndex, by_split, walk
from convnext_dense.data.text_files import read_json
from convnext_dense.errors import UserError

NAME = "LabelMe"
_NO_CLASS = {"_background_", "__ignore__"}


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    return list(_files(folder)) or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the annotations depend."""
    yield folder


def read(folder: Path, splits: list[str], embedded: Path) -> tuple[dict[str, Annotations], list[str]]:
    """Read splits of a folder.

    Args:
        folder: The folder.
        splits: Which splits to read.
        embedded: Folder to which images are written that the JSON files have in them.

    Returns:
        The objects by split, and the class names, sorted.

    Raises:
        UserError: A JSON file is wrong; the message names the file and the shape.
    """
    files = _files(folder)
    found = {split: _read_split(folder, files[split], split, embedded) for split in splits}
    names = sorted({item.name for annotations in found.values() for item in annotations.objects})
    return found, names


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the JSON files of each split."""
    files = list(walk(folder, (".json",)))
    if not files or b'"shapes"' not in files[0].read_bytes():
        return {}
    return by_split(files, folder, is_whole=False)


def _read_split(folder: Path, files: list[Path], split: str, embedded: Path) -> Annotations:
    images = ImageIndex(folder)
    contents = [read_json(file, "File") for file in files]
    for file, content in zip(files, contents, strict=True):
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise UserError(f"File {file} has no list 'shapes': it is not LabelMe's.")
    paths = [
        _image_of(content, file, images, split, embedded / split) for file, content in zip(files, contents, strict=True)
    ]
    has_embedded = any(embedded in path.parents for path in paths)
    annotations = Annotations(Path(os.path.commonpath([path.parent for path in paths])) if has_embedded else folder)
    for file, content, path in zip(files, contents, paths, strict=True):
        declared = (content.get("imageHeight"), content.get("imageWidth"))
        image = annotations.add_image(path, f"File {file}", declared)
        parts: dict[Any, list[list[float]]] = defaultdict(list)
        for number, shape in enumerate(content["shapes"]):
            source = f"File {file}, shape {number},"
            polygon, name = _polygon(shape, source, annotations)
            if polygon is not None:
                group = shape.get("group_id")
                parts[name, number if group is None else f"group {group}"].append(polygon)
        for (name, _), polygons in parts.items():
            annotations.add_polygons(image, name, polygons)
    return annotations


def _image_of(content: dict[str, Any], file: Path, images: ImageIndex, split: str, embedded: Path) -> Path:
    name = content.get("imagePath")
    if not isinstance(name, str) or not name:
        raise UserError(f"File {file} has no 'imagePath'.")
    found = images.find(name, file, split)
    data = content.get("imageData")
    if found.is_file() or not isinstance(data, str):
        return found
    path = embedded / file.parent.relative_to(images.root) / f"{file.stem}{Path(name).suffix or '.png'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise UserError(f"File {file} has an image under 'imageData' that is not base64: {error}.") from error
    return path


def _polygon(shape: Any, source: str, annotations: Annotations) -> tuple[list[float] | None, str]:
    """Return a shape as x, y, x, y, ... and its class; None for one that is left out."""
    name = shape.get("label") if isinstance(shape, dict) else None
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(name, str) or not name or not isinstance(points, list):
        raise UserError(f"{source} must have a label and points.")
    kind = shape.get("shape_type") or "polygon"
    if name in _NO_CLASS:
        annotations.left_out[f"shapes with the label {name}"] += 1
        return None, name
    if kind not in ("polygon", "rectangle", "circle"):
        annotations.left_out[f"shapes of the type {kind}"] += 1
        return None, name
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise UserError(f"{source} has a point that is not x, y.")
    places = [(number_at(x, source, "a place"), number_at(y, source, "a place")) for x, y in points]
    if len(places) < (3 if kind == "polygon" else 2):
        raise UserError(f"{source} is a {kind} of {len(places)} points.")
    if kind == "rectangle":
        xs, ys = zip(*places, strict=True)  # two corners, or all four
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
        return [x1, y1, x2, y1, x2, y2, x1, y2], name
    if kind == "circle":
        (x, y), radius = places[0], math.dist(*places[:2])
        return ellipse_corners(x, y, radius, radius), name
    return [value for place in places for value in place], name
