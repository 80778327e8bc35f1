"""Reads COCO annotation files that other tools write with small liberties.

What has only one meaning is accepted, counted and said: a number written as text, an area that can be calculated.
Whatever could mean two things stays as it is, and the checks refuse it. Letters: H, W are an image's height and width.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from convnext_dense.config.datasets import leads_out
from convnext_dense.data.checks.coco_masks import NO_MASK, encode_mask, is_number, mask_fault
from convnext_dense.data.image_size import read_size
from convnext_dense.data.own.coco_ids import Ids, as_id, check_numbers, may_be_id
from convnext_dense.errors import shortened
from convnext_dense.files import names_unwritable

_VERSION = 1  # raise it when the same file is repaired in another way
_NUMBERS = frozenset((int, float))
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_MIN_CORNERS = 3
_IDENTITY = ("image_id", "category_id", "bbox", "segmentation")


class Repairs:
    """What is read in another way than it is written.

    Args:
        path: The annotation file, for messages.

    Attributes:
        found: Kind -> how often it was found, and the first example as a sentence.
        is_changed: Whether the content differs from the file for everybody who reads it.
        num_left_out: Objects whose box has no size. mmdet leaves these out of a training by itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, tuple[int, str]] = {}
        self.is_changed = False
        self.num_left_out = 0

    def add(self, kind: str, example: str) -> None:
        """Count a change of the content; the first example of a kind is kept."""
        times, first = self.found.get(kind, (0, example))
        self.found[kind] = (times + 1, first)
        self.is_changed = True

    def must_be_written(self, *, is_trained: bool) -> bool:
        """Whether mmdet, which reads the file itself, needs another file: for training, or for evaluation."""
        return self.is_changed or (self.num_left_out > 0 and not is_trained)


def repair(content: Any, path: Path, *, folder: Path | None = None, are_turned: bool = True) -> Repairs:
    """Change the content of an annotation file, in place, to what COCO's format has in its place.

    Args:
        content: Any JSON value; what is not in COCO's format is left to the checks.
        path: The file.
        folder: Folder of the images; without it, names and missing sizes stay as they are.
        are_turned: Whether images are turned upright according to EXIF when they are read.

    Raises:
        UserError: Two ids are the same number, once as text; or an image whose size is missing cannot be opened.
    """
    repairs = Repairs(path)
    if isinstance(content, dict):
        for number, image in enumerate(_entries(content, "images")):
            if isinstance(image, dict):
                _repair_image(image, number, repairs, folder=folder, are_turned=are_turned)
        _Objects(content, repairs).repair()
    return repairs


def write_repaired(content: Mapping[str, Any], path: Path, cache: Path) -> Path:
    """Write the changed content of an annotation file, unless the same was written before, and return its path.

    Args:
        content: The content.
        path: The file that it was read from.
        cache: Folder of all conversions.

    Raises:
        UserError: It cannot be written.
    """
    state = path.stat()
    digest = hashlib.sha256(f"{_VERSION}\0{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    # The images' names and sizes are found in the folder, which may have changed since.
    digest.update(json.dumps(content["images"]).encode())
    digest.update(str(sum(item.get("segmentation") == NO_MASK for item in content["annotations"])).encode())
    out = cache.resolve() / f"coco-{digest.hexdigest()[:16]}" / path.name
    if not out.is_file():
        with names_unwritable(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            # Every process of a distributed run writes the same file: each under a name of its own, then renamed.
            with tempfile.TemporaryDirectory(dir=out.parent) as folder:
                partial = Path(folder, path.name)
                partial.write_text(json.dumps(content), encoding="utf-8")
                os.replace(partial, out)
    return out


def as_number(value: Any) -> Any:
    """Return the number that a text says, as int where it has only digits; any other value as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value) or len(value) > 40:
        return value
    return int(value) if re.fullmatch(r"\s*[+-]?\d+\s*", value, re.ASCII) else float(value)


def _entries(content: Mapping[str, Any], key: str) -> list[Any]:
    entries = content.get(key)
    return entries if isinstance(entries, list) else []


def _repair_image(image: dict, number: int, repairs: Repairs, *, folder: Path | None, are_turned: bool) -> None:
    where = f"{repairs.path}: entry {number} of 'images'"
    for key in ("height", "width"):
        value = image.get(key)
        if type(value) is int or value is None:
            continue
        found = as_number(value)
        if isinstance(found, float) and found.is_integer() and abs(found) < 2**53:
            found = int(found)
        if type(found) is int:
            image[key] = found
            kind = "numbers as text" if isinstance(value, str) else "whole numbers with a point"
            repairs.add(kind, f"{where} has {key}={value!r}: it is read as {found}.")
    name = image.get("file_name")
    if folder is None or not isinstance(name, str) or not name or "\0" in name or leads_out(name):
        return
    found = _name_in(folder, name)
    if found != name:
        image["file_name"] = found
        repairs.add("file names", f"{where} names the file '{name}': it is '{found}' in {folder}.")
    missing = [key for key in ("height", "width") if image.get(key) is None]
    if missing:
        size = dict(zip(("height", "width"), read_size(folder / found, are_turned=are_turned), strict=True))
        image.update({key: size[key] for key in missing})
        what = " and no ".join(missing)
        read = f"it is read from the image, {size['width']}x{size['height']}"
        repairs.add("sizes of images", f"{where} has no {what}: {read}.")


def _name_in(folder: Path, name: str) -> str:
    """Return the name of an image below its folder, where it was written with backslashes or the folder itself."""
    plain = str(PurePosixPath(name.replace("\\", "/")))
    parts = plain.split("/")
    names = [plain] if "\\" in name else []
    names += ["/".join(parts[k:]) for k in range(1, len(parts)) if tuple(parts[:k]) == folder.parts[-k:]]
    if not names or (folder / name).is_file():
        return name
    return next((found for found in names if (folder / found).is_file()), name)


class _Objects:
    """The annotations of a file, and what is needed to repair them.

    Args:
        content: The whole content.
        repairs: Collects what is found.
    """

    def __init__(self, content: dict[str, Any], repairs: Repairs) -> None:
        self.content = content
        self.repairs = repairs
        self.path = repairs.path
        self.images = Ids(_entries(content, "images"), "image", self.path)
        self.categories = Ids(_entries(content, "categories"), "category", self.path)
        self._sizes: dict[Any, tuple[Any, Any]] | None = None
        self._next_id: int | None = None
        self._has_text_ids = False

    def repair(self) -> None:
        """Repair all annotations, and leave out those whose box has no size."""
        annotations = _entries(self.content, "annotations")
        images, categories = self.images.known, self.categories.known
        num_left_out = 0
        for annotation in annotations:
            if type(annotation) is dict and not _is_usual(annotation, images, categories):
                self._repair(annotation)
                num_left_out += self._has_no_size(annotation)
        self._renumber(annotations)
        if self._has_text_ids:
            ids = (annotation.get("id") for annotation in annotations if isinstance(annotation, dict))
            check_numbers(filter(may_be_id, ids), "annotation ids", self.path)
        if num_left_out:
            first = next(annotation for annotation in annotations if self._has_no_size(annotation))
            where = f"Annotation {first['id']} of {self.path}"
            what = "boxes without a width or height are left out"
            self.repairs.found["boxes of no size"] = (num_left_out, f"{where} has the box {first['bbox']}: {what}.")
            self.repairs.num_left_out = num_left_out
            self.content["annotations"] = [item for item in annotations if not self._has_no_size(item)]

    def _renumber(self, annotations: Sequence[Any]) -> None:
        """Give new ids to other objects of an id that occurs before; some tools count the objects of each image.

        The same object a second time stays as it is.
        """
        seen: dict[Any, Any] = {}
        for annotation in annotations:
            number = annotation.get("id") if type(annotation) is dict else None
            if number is None or not may_be_id(number):
                continue
            first = seen.setdefault(number, annotation)
            if first is not annotation and any(first.get(key) != annotation.get(key) for key in _IDENTITY):
                annotation["id"] = self._new_id()
                what = f"shares its id with another object: it is numbered {annotation['id']}"
                self.repairs.add("annotation ids", f"Annotation {number} of {self.path} {what}.")

    def _repair(self, annotation: dict[str, Any]) -> None:
        number = annotation.get("id")
        if number is None:
            annotation["id"] = number = self._new_id()
            what = f"has annotations without an id: they are numbered from {number}"
            self.repairs.add("annotation ids", f"{self.path} {what}.")
        self._has_text_ids |= isinstance(number, str)
        where = f"Annotation {number} of {self.path}"
        for key, ids in (("image_id", self.images), ("category_id", self.categories)):
            value = annotation.get(key)
            found = ids.find(value)
            if found is not value and found != value:
                annotation[key] = found
                self.repairs.add("numbers as text", f"{where} has {key}={value!r}: it is the id {found!r}.")
        for key in ("bbox", "area", "segmentation", "iscrowd"):
            value = annotation.get(key)
            found = _with_numbers(value) if key != "segmentation" or not isinstance(value, str) else value
            if found is not value:
                annotation[key] = found
                self.repairs.add("numbers as text", f"{where} has a number as text in {key}={shortened(repr(value))}.")
        whole = _with_whole_run_lengths(annotation.get("segmentation"))
        if whole is not None:
            annotation["segmentation"] = whole
            what = "run lengths with a point: they are read as whole numbers"
            self.repairs.add("whole numbers with a point", f"{where} has {what}.")
        crowd = annotation.get("iscrowd")
        if crowd is None or isinstance(crowd, bool):
            annotation["iscrowd"] = int(crowd or 0)
            what = "no iscrowd" if crowd is None else f"iscrowd={crowd}"
            self.repairs.add("crowds", f"{where} has {what}: it is read as {int(crowd or 0)}.")
        self._repair_mask(annotation, where)
        self._repair_extent(annotation, where)

    def _repair_mask(self, annotation: dict[str, Any], where: str) -> None:
        """Leave out parts of a mask that have no area: polygons of fewer than three corners, beside whole ones."""
        mask = annotation.get("segmentation")
        if not isinstance(mask, list) or not all(type(part) is list for part in mask):
            return
        parts = [part for part in mask if part and not (len(part) in (2, 4) and all(map(is_number, part)))]
        if len(parts) < len(mask) and (parts or not any(mask)):
            annotation["segmentation"] = parts
            what = f"a polygon of fewer than {_MIN_CORNERS} corners: it is left out of the mask"
            self.repairs.add("masks", f"{where} has {what}.")

    def _repair_extent(self, annotation: dict[str, Any], where: str) -> None:
        """Calculate a missing area from the mask or else from the box, and a missing box from the mask."""
        if annotation.get("bbox") in (None, []):
            found = self._of_mask(annotation)
            if found is not None:
                annotation["bbox"] = found[1]
                self.repairs.add("boxes", f"{where} has no box: it is calculated from the mask, {found[1]}.")
        if annotation.get("area") is None:
            found = self._of_mask(annotation)
            box: Any = annotation.get("bbox")
            if found is None and not _is_box(box):
                return
            annotation["area"] = found[0] if found is not None else box[2] * box[3]
            what = "mask" if found is not None else "box"
            self.repairs.add("areas", f"{where} has no area: it is calculated from the {what}, {annotation['area']:g}.")

    def _of_mask(self, annotation: Mapping[str, Any]) -> tuple[float, list[float]] | None:
        """Return the area and the box of a mask; None if there is no valid one."""
        mask = annotation.get("segmentation")
        image = annotation.get("image_id")
        if not mask or not may_be_id(image):
            return None
        if self._sizes is None:
            images = (item for item in _entries(self.content, "images") if isinstance(item, dict))
            self._sizes = {
                item["id"]: (item.get("height"), item.get("width")) for item in images if may_be_id(item.get("id"))
            }
        height, width = self._sizes.get(image, (None, None))
        if not (type(height) is int and type(width) is int and 0 < height * width < 2**31):
            return None
        if mask_fault(mask, height, width) is not None:
            return None
        return _extent(mask, height, width)

    def _has_no_size(self, annotation: Any) -> bool:
        """Whether an annotation of a known image and class has a box without width or height."""
        if type(annotation) is not dict or not _is_box(annotation.get("bbox")) or all(annotation["bbox"][2:]):
            return False
        return _is_known(annotation, self.images.known, self.categories.known)

    def _new_id(self) -> int:
        if self._next_id is None:
            ids = [item.get("id") for item in _entries(self.content, "annotations") if isinstance(item, dict)]
            numbers = filter(is_number, map(as_id, filter(may_be_id, ids)))
            self._next_id = int(max([0, *numbers])) + 1
        self._next_id += 1
        return self._next_id - 1


def _extent(mask: Any, height: int, width: int) -> tuple[float, list[float]]:
    """Return the area and the box of a valid mask: of polygons within the image, as COCO's own, or of pixels."""
    if isinstance(mask, list):
        xs = [[min(max(x, 0), width) for x in part[::2]] for part in mask]
        ys = [[min(max(y, 0), height) for y in part[1::2]] for part in mask]
        area = sum(map(_polygon_area, xs, ys))
        left, top = min(map(min, xs)), min(map(min, ys))
        return round(area, 3), [left, top, max(map(max, xs)) - left, max(map(max, ys)) - top]
    from pycocotools import mask as masks

    encoded = encode_mask(mask, height, width)
    return int(masks.area(encoded)), masks.toBbox(encoded).tolist()


def _polygon_area(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the area of a polygon by Gauss's formula; with numpy it takes longer for the few corners of an object."""
    return abs(sum(xs[k - 1] * ys[k] - xs[k] * ys[k - 1] for k in range(len(xs)))) / 2


def _is_known(annotation: Mapping[str, Any], images: set[Any], categories: set[Any]) -> bool:
    image, category = annotation.get("image_id"), annotation.get("category_id")
    return all(map(may_be_id, (image, category))) and image in images and category in categories


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) >= 0


def _is_usual(annotation: Mapping[str, Any], images: set[Any], categories: set[Any]) -> bool:
    """Whether nothing can be repaired; fast, because nearly all of a file's annotations are like that."""
    box, mask = annotation.get("bbox"), annotation.get("segmentation")
    if (
        type(annotation.get("id")) is not int
        or type(annotation.get("image_id")) is not int
        or type(annotation.get("category_id")) is not int
        or type(annotation.get("iscrowd")) is not int
        or type(annotation.get("area")) not in _NUMBERS
        or type(box) is not list
        or len(box) != 4
        or not _NUMBERS.issuperset(map(type, box))
        or not (box[2] and box[3])
        or annotation["image_id"] not in images
        or annotation["category_id"] not in categories
    ):
        return False
    if type(mask) is list:
        for part in mask:
            if type(part) is not list or len(part) < 2 * _MIN_CORNERS or not _NUMBERS.issuperset(map(type, part)):
                return False
    elif type(mask) is dict:
        counts, size = mask.get("counts"), mask.get("size")
        has_counts = type(counts) is str or (type(counts) is list and set(map(type, counts)) <= {int})
        return has_counts and type(size) is list and set(map(type, size)) == {int}
    return True


def _with_numbers(value: Any) -> Any:
    """Return a number, or the numbers of a box, of polygons or of run lengths, without texts; else the same object.

    Run lengths that are text as a whole are encoded, and stay.
    """
    if isinstance(value, str):
        return as_number(value)
    if isinstance(value, list):
        if _NUMBERS.issuperset(map(type, value)):
            return value
        found = [_flat(item) if isinstance(item, list) else as_number(item) for item in value]
        return found if any(new is not old for new, old in zip(found, value, strict=True)) else value
    if isinstance(value, dict):
        changed = {key: _flat(value[key]) for key in ("size", "counts") if isinstance(value.get(key), list)}
        return {**value, **changed} if any(changed[key] is not value[key] for key in changed) else value
    return value


def _with_whole_run_lengths(mask: Any) -> dict[str, Any] | None:
    """Return run lengths with whole numbers in place of floats such as 96.0; None if nothing is to be changed."""
    if not isinstance(mask, dict):
        return None
    changed = {
        key: [int(item) if type(item) is float and item.is_integer() else item for item in mask[key]]
        for key in ("size", "counts")
        if isinstance(mask.get(key), list) and any(type(item) is float and item.is_integer() for item in mask[key])
    }
    return {**mask, **changed} if changed else None


def _flat(values: list[Any]) -> list[Any]:
    if _NUMBERS.issuperset(map(type, values)):
        return values
    found = [as_number(item) for item in values]
    return found if any(new is not old for new, old in zip(found, values, strict=True)) else values
