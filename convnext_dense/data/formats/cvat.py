"""CVAT for images 1.1: one XML file of boxes, polygons, masks and ellipses.

Source: https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat/
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from convnext_dense.config.datasets import SPLIT_FOLDERS
from convnext_dense.data.formats.annotations import Annotations, ellipse_corners, number_at, rotated
from convnext_dense.data.formats.finding import ImageIndex, by_split, split_of, walk
from convnext_dense.data.formats.xml_files import begins_with, line_of, read_xml
from convnext_dense.errors import UserError

NAME = "CVAT for images"
_SHAPES = {"box", "polygon", "ellipse", "mask"}


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    return list(_files(folder)) or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the annotations depend."""
    yield folder


def read(folder: Path, splits: list[str], _: Path) -> tuple[dict[str, Annotations], list[str]]:
    """Read splits of a folder.

    Returns:
        The objects by split, and the class names, in the order of the file's labels.

    Raises:
        UserError: An XML file is wrong; the message names the file and the line.
    """
    names: list[str] = []
    images = ImageIndex(folder)
    found = {split: Annotations(folder) for split in splits}
    for split, files in _files(folder).items():
        for file in files:
            root = read_xml(file)
            for item in root.iter("image"):
                if split in found and split == _split_of_image(item, file, folder):
                    _read_image(item, file, images, split, found[split])
            labels = [name.text or "" for name in root.findall("./meta//labels/label/name")]
            names += [name for name in labels if name not in names]
    used = {item.name for annotations in found.values() for item in annotations.objects}
    return found, names + sorted(used - set(names))


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split; one file can have several splits, which its images name."""
    files = [file for file in walk(folder, (".xml",)) if begins_with(file, "annotations")]
    found = by_split(files, folder, is_whole=True) if files else {}
    if list(found) == ["train"] and split_of(files[0], folder, is_whole=True) is None:
        there = {_split_of_image(item, file, folder) for file in files for item in read_xml(file).iter("image")}
        return {split: files for split in SPLIT_FOLDERS if split in there}
    return found


def _split_of_image(item: Element, file: Path, folder: Path) -> str:
    """Return the split of an image: that of its file, or else of its subset, or else train."""
    subset = (item.get("subset") or "").lower()
    named = next((split for split, names in SPLIT_FOLDERS.items() if subset in names), "train")
    return split_of(file, folder, is_whole=True) or named


def _read_image(item: Element, file: Path, images: ImageIndex, split: str, annotations: Annotations) -> None:
    source = f"File {file}, line {line_of(item)},"
    name = item.get("name") or ""
    if not name:
        raise UserError(f"{source} has an image without a name.")
    declared = (item.get("height"), item.get("width"))
    image = annotations.add_image(images.find(name, file, split), source, declared)
    for shape in sorted(item, key=lambda shape: number_at(shape.get("z_order") or 0, source, "z_order")):
        if shape.tag not in _SHAPES:
            annotations.left_out[f"<{shape.tag}> shapes"] += 1
            continue
        source = f"File {file}, line {line_of(shape)},"
        label = shape.get("label")
        if not label:
            raise UserError(f"{source} has a <{shape.tag}> without a label.")
        _read_shape(shape, source, label, image, annotations)


def _read_shape(shape: Element, source: str, label: str, image: tuple[int, int, int], annotations: Annotations) -> None:
    def number(key: str) -> float:
        return number_at(shape.get(key), source, key)

    turned = number("rotation") if shape.get("rotation") else 0
    if shape.tag == "box" and turned:
        x1, y1, x2, y2 = map(number, ("xtl", "ytl", "xbr", "ybr"))
        annotations.add_polygons(image, label, [rotated([x1, y1, x2, y1, x2, y2, x1, y2], turned)])
    elif shape.tag == "box":
        annotations.add_box(image, label, (number("xtl"), number("ytl"), number("xbr"), number("ybr")))
    elif shape.tag == "ellipse":
        annotations.add_polygons(
            image, label, [ellipse_corners(*map(number, ("cx", "cy", "rx", "ry")), degrees=turned)]
        )
    elif shape.tag == "polygon":
        points = [point.split(",") for point in (shape.get("points") or "").split(";") if point]
        if len(points) < 3 or any(len(point) != 2 for point in points):
            raise UserError(f"{source} has a polygon that is not three or more points x,y;x,y;...")
        annotations.add_polygons(image, label, [[number_at(v, source, "a place") for point in points for v in point]])
    else:
        left, top, width, height = (int(number(key)) for key in ("left", "top", "width", "height"))
        runs = [int(number_at(run, source, "a run")) for run in (shape.get("rle") or "").split(",")]
        if sum(runs) != width * height or min(runs) < 0 or min(left, top) < 0:
            raise UserError(f"{source} has a mask whose runs add up to {sum(runs)}, not to {width} x {height} pixels.")
        values = np.arange(len(runs)) % 2  # runs of 0 and 1 in turn, row by row
        crop = np.repeat(values, runs).reshape(height, width).astype(np.uint8)
        annotations.add_crop(image, label, crop, left=left, top=top)
