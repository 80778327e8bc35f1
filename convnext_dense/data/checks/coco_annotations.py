"""Checks every entry of a COCO annotation file: ids, boxes, areas, masks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convnext_dense.config.datasets import quote
from convnext_dense.data.checks.coco_masks import is_number, leaves_image, mask_fault
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.own.detection import is_id
from convnext_dense.errors import shortened


class Objects(NamedTuple):
    """Numbers of objects in an annotation file.

    Attributes:
        total: Number of objects that belong to an image and a class.
        without_mask: Number of objects with an empty or no ``segmentation``.
        first_without: Id of the first of these.
        in_images: Ids of the images with at least one object.
        per_class: Number of objects of each class that are learnt from or can be detected: neither crowds nor unread.
        unread: Number of objects that mmdet leaves out because of their size.
    """

    total: int
    without_mask: int
    first_without: Any
    in_images: frozenset[Any]
    per_class: Mapping[str, int]
    unread: int


def inspect_entries(content: Mapping[str, Any], path: Path, inspection: Inspection) -> None:
    """Look for duplicate ids and names, and note oddities that are allowed."""
    for kind, entries in (("image", content["images"]), ("category", content["categories"])):
        twice = _twice(entry["id"] for entry in entries)
        if twice:
            inspection.error(
                f"{kind} ids",
                f"{path} uses the {kind} id {twice[0]} twice: only one of the two would be seen. Renumber them.",
                len(twice),
            )
    twice = _twice(image["file_name"] for image in content["images"])
    if twice:
        inspection.warning("file names", f"{path} lists the image '{twice[0]}' twice.", len(twice))
    ids = [category["id"] for category in content["categories"]]
    if set(ids) != set(range(1, len(ids) + 1)):
        inspection.note(
            "category ids",
            f"{path} numbers its categories {', '.join(map(str, ids[:8]))}{', ...' if len(ids) > 8 else ''}: gaps and "
            "a start at 0 are allowed, labels follow the order of the file.",
        )


def _twice(values: Any) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def inspect_objects(
    content: Mapping[str, Any],
    path: Path,
    inspection: Inspection,
    *,
    classes: Sequence[str],
    has_masks: bool,
    is_trained: bool,
) -> Objects:
    """Check every annotation.

    Args:
        content: Content of the file, see ``read_annotations``.
        path: The file.
        inspection: Collects the findings.
        classes: Names of the classes that are used.
        has_masks: Whether masks matter.
        is_trained: Whether objects are learnt from.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    used = {number for number, name in names.items() if name in classes}
    seen: set[Any] = set()
    in_images: set[Any] = set()
    per_class: Counter[str] = Counter()
    total = unread = without_mask = num_crowd = 0
    first_without = None
    for annotation in inspection.follow(content["annotations"], f"annotations of {path.name}"):
        number, where = annotation.get("id"), f"Annotation {annotation.get('id')} of {path}"
        if not is_id(number) or number in seen:
            state = "occurs twice" if is_id(number) else "has no number or text as its id"
            inspection.error("annotation ids", f"{where} {state}: only one of the two would be seen. Renumber them.")
            continue
        seen.add(number)
        if not _belongs(annotation, where, inspection, sizes=sizes, names=names):
            continue
        size, image_id, category_id = sizes[annotation["image_id"]], annotation["image_id"], annotation["category_id"]
        if not _has_sound_box(annotation, where, inspection, size=size):
            continue
        if category_id not in used:
            continue
        total += 1
        in_images.add(image_id)
        is_crowd, is_unread = bool(annotation.get("iscrowd")), _is_left_out(annotation, where, inspection)
        num_crowd += is_crowd
        unread += is_unread
        per_class[names[category_id]] += not is_crowd and not is_unread
        if not has_masks:
            continue
        mask = annotation.get("segmentation")
        if not mask:
            without_mask += 1
            first_without = number if first_without is None else first_without
        elif (fault := mask_fault(mask, *size)) is not None:
            inspection.error("masks", f"{where} has {fault}. Rewrite its mask.")
        elif isinstance(mask, list) and leaves_image(mask, *size):
            inspection.warning("masks", f"{where} has a polygon that leaves its image of {size[1]}x{size[0]} pixels.")
    if num_crowd and num_crowd == total:
        inspection.warning("crowds alone", f"{path} has crowds alone: there is nothing to learn from and to find.")
    elif num_crowd:
        inspection.note("crowds", f"{path}: crowds are neither learnt from nor counted as missed.", num_crowd)
    absent = [name for name in classes if not per_class[name]]
    if absent and total and not is_trained:
        inspection.note("classes without objects", f"{path} has no object of {quote(absent)}.", len(absent))
    return Objects(total, without_mask, first_without, frozenset(in_images), +per_class, unread)


def _belongs(
    annotation: Mapping[str, Any], where: str, inspection: Inspection, *, sizes: Mapping[Any, Any], names: Mapping
) -> bool:
    for key, known in (("image_id", sizes), ("category_id", names)):
        value = annotation.get(key)
        if not is_id(value) or value not in known:
            kind = key.removesuffix("_id")
            inspection.error(
                f"annotations of an unknown {kind}",
                f"{where} names the {kind} {value!r}, which the file does not have: it would be left out.",
            )
            return False
    return True


def _has_sound_box(annotation: Mapping[str, Any], where: str, inspection: Inspection, *, size: tuple[int, int]) -> bool:
    box, area = annotation.get("bbox"), annotation.get("area")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
        inspection.error(
            "boxes", f"{where} has the box {shortened(repr(box))}: it must be x, y, width and height in pixels."
        )
        return False
    # Twice the image, because some programs take the area of a box, and boxes may leave the image.
    if not is_number(area) or not 0 <= annotation["area"] <= 2 * size[0] * size[1]:
        inspection.error(
            "areas", f"{where} has the area {shortened(repr(area))}: it must be the number of the object's pixels."
        )
        return False
    if annotation.get("iscrowd", 0) not in (0, 1):
        inspection.error("crowds", f"{where} has iscrowd={shortened(repr(annotation['iscrowd']))}: it must be 0 or 1.")
        return False
    (x, y, box_width, box_height), (height, width) = box, size
    if x >= width or y >= height or x + box_width <= 0 < box_width or y + box_height <= 0 < box_height:
        inspection.error(
            "boxes outside of the image",
            f"{where} has the box {box}, which is outside of its image of {width}x{height} pixels. Boxes are x, y, "
            "width and height in pixels of the upright image.",
        )
        return False
    if min(x, y) < -1 or x + box_width > width + 1 or y + box_height > height + 1:
        inspection.warning(
            "boxes that leave the image",
            f"{where} has the box {box}, which leaves its image of {width}x{height} pixels. Boxes are x, y, width and "
            "height, not two corners, in pixels of the upright image.",
        )
    return True


def _is_left_out(annotation: Mapping[str, Any], where: str, inspection: Inspection) -> bool:
    """Whether mmdet leaves an object out, by the rules of its ``CocoDataset.parse_data_info``."""
    box = annotation["bbox"]
    is_small = min(box[2:]) < 1 or annotation["area"] <= 0 or box[0] + box[2] <= 0 or box[1] + box[3] <= 0
    if is_small:
        inspection.warning(
            "boxes without area",
            f"{where} has the box {box} and the area {annotation['area']}: what has less than a pixel of width, height "
            "or area is not learnt from, but is counted as missed.",
        )
    elif annotation.get("ignore"):
        inspection.warning("ignored objects", f"{where} is marked 'ignore' and not learnt from, but counts as missed.")
    return bool(is_small or annotation.get("ignore"))
