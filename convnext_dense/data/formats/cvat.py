"""CVAT for images 1.1: one XML file of boxes, polygons, masks and ellipses.

Source: https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat/
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from convnext_dense.data.formats.annotations import SPLIT_FOLDERS, Annotations, ellipse_corners, number_at
from convnext_dense.data.formats.xml_files import line_of, read_xml
from convnext_dense.errors import UserError

NAME = "CVAT for images"
_SHAPES = {"box", "polygon", "ellipse", "mask"}


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    found = [split for split in SPLIT_FOLDERS if _file_of(folder, split) is not None]
    whole = folder / "annotations.xml"
    if not found and whole.is_file():
        subsets = {(image.get("subset") or "").lower() for image in read_xml(whole).iter("image")}
        found = [split for split, names in SPLIT_FOLDERS.items() if subsets & set(names)]
    return found or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the annotations depend."""
    yield folder / "annotations.xml"
    yield folder / "images"
    yield from (folder / name for names in SPLIT_FOLDERS.values() for name in names)


def read(folder: Path, splits: list[str], _: Path) -> tuple[dict[str, Annotations], list[str]]:
    """Read splits of a folder.

    Returns:
        The objects by split, and the class names, in the order of the file's labels.

    Raises:
        UserError: An XML file is wrong; the message names the file and the line.
    """
    found, names = {}, []
    for split in splits:
        file = _file_of(folder, split) or folder / "annotations.xml"
        root = read_xml(file)
        labels = [name.text or "" for name in root.findall("./meta//labels/label/name")]
        annotations = Annotations(folder)
        for item in root.iter("image"):
            if file.parent != folder or (item.get("subset") or "").lower() in SPLIT_FOLDERS[split]:
                _read_image(item, file, folder, annotations)
        found[split] = annotations
        names += [name for name in labels if name not in names]
    used = {item["name"] for annotations in found.values() for item in annotations.objects}
    return found, names + sorted(used - set(names))


def _file_of(folder: Path, split: str) -> Path | None:
    files = [folder / name / "annotations.xml" for name in SPLIT_FOLDERS[split]]
    return next((file for file in files if file.is_file()), None)


def _read_image(item: Element, file: Path, folder: Path, annotations: Annotations) -> None:
    name, subset = item.get("name") or "", item.get("subset") or ""
    if not name:
        raise UserError(f"File {file}, line {line_of(item)}, has an image without a name.")
    base = file.parent
    tried = [base / "images" / subset / name, base / "images" / name, base / name, folder / "images" / name]
    path = next((path for path in tried if path.is_file()), tried[1])
    image = annotations.add_image(path, f"File {file}, line {line_of(item)},")
    for shape in item:
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

    if shape.tag == "box":
        annotations.add_box(image, label, (number("xtl"), number("ytl"), number("xbr"), number("ybr")))
    elif shape.tag == "ellipse":
        annotations.add_polygons(image, label, [ellipse_corners(*map(number, ("cx", "cy", "rx", "ry")))])
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
