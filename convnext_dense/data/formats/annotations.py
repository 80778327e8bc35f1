"""The common form of all detection formats: one COCO annotation file per split, with what was left out counted.

Letters: H, W are the height and width of an image in pixels.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.data.held_out import Sample
from convnext_dense.data.image_size import read_size
from convnext_dense.data.run_lengths import compress
from convnext_dense.errors import UserError
from convnext_dense.files import written_whole

Numbers = Sequence[float]

_ELLIPSE_CORNERS = 72


class StoredObject(NamedTuple):
    """An object in little memory, as a data set can have millions.

    Attributes:
        image_id: The id of its image.
        name: Its class.
        text: The other keys of its COCO entry as JSON, without the braces.
    """

    image_id: int | str
    name: str
    text: str

    @property
    def entry(self) -> dict[str, Any]:
        """The COCO entry, with the class under ``name``."""
        return dict(json.loads(f"{{{self.text}}}"), image_id=self.image_id, name=self.name)


class Annotations:
    """Objects of one split, collected image by image.

    Args:
        root: Folder that the file names of images are relative to.

    Attributes:
        left_out: How many objects were left out, by reason.
        images: COCO entries.
        objects: The objects of all images.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: Counter[str] = Counter()
        self.images: list[dict[str, Any]] = []
        self.objects: list[StoredObject] = []
        self._files: set[str] = set()

    def add_image(self, path: Path, source: str, declared: tuple[Any, Any] = (None, None)) -> tuple[int, int, int]:
        """Add an image and return its id, H and W, read from the image itself.

        Args:
            path: The image, inside ``root``.
            source: Place that names the image, for messages.
            declared: H and W in the annotations, as text or numbers; None or 0 where there are none.

        Raises:
            UserError: The image does not exist, cannot be read, was added before, or has another size than declared.
        """
        if not path.is_file():
            raise UserError(f"{source} names the image {path}, which does not exist.")
        name = path.relative_to(self.root).as_posix()
        if name in self._files:
            raise UserError(f"{source} names the image {path} a second time.")
        self._files.add(name)
        height, width = read_size(path, are_turned=True)
        for side, (given, found) in dict(height=(declared[0], height), width=(declared[1], width)).items():
            pixels = number_at(given or 0, source, side)
            if pixels and pixels != found:
                raise UserError(
                    f"{source} gives the image {path} a {side} of {pixels:g} pixels, but it is read with "
                    f"{found}, upright by its EXIF: annotate the image as it is read."
                )
        number = len(self.images) + 1
        self.images.append(dict(id=number, file_name=name, height=height, width=width))
        return number, height, width

    def add_box(self, image: tuple[int, int, int], name: str, corners: Numbers, *, is_ignored: bool = False) -> None:
        """Add an object that has only a box, x1, y1, x2, y2 in pixels; parts outside the image are cut off."""
        self._add(image, name, corners, None, is_ignored=is_ignored)

    def add_polygons(
        self, image: tuple[int, int, int], name: str, polygons: Sequence[Numbers], *, is_ignored: bool = False
    ) -> None:
        """Add an object of one or several polygons, each x, y, x, y, ... in pixels."""
        _, height, width = image
        cut = [
            [round(min(max(value, 0.0), (width, height)[place % 2]), 3) for place, value in enumerate(polygon)]
            for polygon in polygons
        ]
        xs = [x for polygon in cut for x in polygon[::2]]
        ys = [y for polygon in cut for y in polygon[1::2]]
        area = sum(map(polygon_area, cut))
        self._add(image, name, (min(xs), min(ys), max(xs), max(ys)), cut, area=area, is_ignored=is_ignored)

    def add_crop(self, image: tuple[int, int, int], name: str, crop: np.ndarray, *, left: int, top: int) -> None:
        """Add an object by the part of its mask that is in its box, an array of 0 and 1; the rest of the mask is 0."""
        from pycocotools import mask as masks

        mask = compress(crop, left=left, top=top, shape=image[1:])
        x, y, box_width, box_height = masks.toBbox(mask)
        self._add(image, name, (x, y, x + box_width, y + box_height), mask, area=float(masks.area(mask)))

    def _add(
        self,
        image: tuple[int, int, int],
        name: str,
        corners: Numbers,
        mask: Any,
        *,
        area: float | None = None,
        is_ignored: bool = False,
    ) -> None:
        image_id, height, width = image
        x1, x2 = (min(max(x, 0.0), width) for x in sorted((corners[0], corners[2])))
        y1, y2 = (min(max(y, 0.0), height) for y in sorted((corners[1], corners[3])))
        box_width, box_height = x2 - x1, y2 - y1
        if box_width <= 0 or box_height <= 0 or area == 0:
            self.left_out["objects without area"] += 1
            return
        found: dict[str, Any] = dict(
            bbox=[round(value, 3) for value in (x1, y1, box_width, box_height)],
            area=round(area if area is not None else box_width * box_height, 3),
            iscrowd=int(is_ignored),
        )
        if mask is not None:
            found["segmentation"] = mask
        self.add_entry(image_id, name, found)

    def add_entry(self, image_id: int | str, name: str, entry: Mapping[str, Any]) -> None:
        """Add an object by its COCO entry, whose ids are left out."""
        self.objects.append(StoredObject(image_id, name, json.dumps(entry)[1:-1]))

    @property
    def samples(self) -> list[Sample]:
        """The path of each image with the class names of its objects."""
        classes: dict[Any, list[str]] = {image["id"]: [] for image in self.images}
        for found in self.objects:
            classes[found.image_id].append(found.name)
        return [Sample(self.root / image["file_name"], classes[image["id"]]) for image in self.images]

    def part(self, places: Collection[int]) -> "Annotations":
        """Return the images at some places of the list, with their objects."""
        part = Annotations(self.root)
        part.images = [image for place, image in enumerate(self.images) if place in places]
        ids = {image["id"] for image in part.images}
        part.objects = [found for found in self.objects if found.image_id in ids]
        return part

    def write(self, path: Path, names: Sequence[str]) -> None:
        """Write a COCO annotation file whose categories are these class names."""
        numbers = {name: number for number, name in enumerate(names, start=1)}
        head = dict(
            images_in=str(self.root),
            categories=[dict(id=number, name=name) for name, number in numbers.items()],
            images=self.images,
        )
        with written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(head)[:-1] + ', "annotations": [')
            for number, (image_id, name, text) in enumerate(self.objects, start=1):
                ids = f'"id": {number}, "image_id": {json.dumps(image_id)}, "category_id": {numbers[name]}'
                file.write(f"{',' if number > 1 else ''}\n{{{', '.join(filter(None, (ids, text)))}}}")
            file.write("\n]}")


def ellipse_corners(x: float, y: float, radius_x: float, radius_y: float, *, degrees: float = 0) -> list[float]:
    """Return an ellipse, given by its centre, radii and clockwise rotation, as a polygon x, y, x, y, ..."""
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    corners = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return rotated(corners.flatten().tolist(), degrees)


def rotated(polygon: Numbers, degrees: float) -> list[float]:
    """Turn a polygon x, y, x, y, ... clockwise around the centre of its box; y points down."""
    if not degrees:
        return list(polygon)
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return ((points - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre).flatten().tolist()


def polygon_area(polygon: Numbers) -> float:
    """Return the area inside a polygon x, y, x, y, ... in square pixels."""
    xs, ys = polygon[::2], polygon[1::2]  # without NumPy, which takes five times as long for a few corners
    corners = zip(xs, ys, (*xs[1:], xs[0]), (*ys[1:], ys[0]), strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in corners)) / 2


def number_at(text: Any, source: str, what: str) -> float:
    """Return a number that stands in a file, also if it is written as text.

    Raises:
        UserError: It is not a finite number.
    """
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < 1e9:
        raise UserError(f"{source} has {str(text)[:40]!r} as {what}: it must be a number.")
    return number
