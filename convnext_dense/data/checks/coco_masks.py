"""Finds faults in masks in COCO's format: polygons, or run lengths as numbers or as text.

Source: https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (how run lengths are encoded as text).
"""

from collections.abc import Sequence
from typing import Any

# Polygons beyond this many times the image's side are refused: the time and memory to draw them grow with it.
_FAR = 2

# A mask without a pixel, as polygon and as bitmap: what mmdet's LoadAnnotations itself gives to invalid polygons.
NO_MASK = [[0.0] * 6]


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number; true and false are not."""
    return type(value) in (int, float) and -1e12 < value < 1e12  # False for NaN and infinity


def mask_fault(mask: Any, height: int, width: int) -> str | None:
    """Return what is wrong with the mask of an object, or None.

    Args:
        mask: Non-empty ``segmentation`` of a COCO annotation.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    if isinstance(mask, list):
        return next((fault for polygon in mask if (fault := _polygon_fault(polygon, height, width))), None)
    if isinstance(mask, dict):
        return _run_length_fault(mask, height, width)
    return f"a mask that is neither polygons nor run lengths but {type(mask).__name__}"


def encode_mask(mask: Any, height: int, width: int) -> dict[str, Any]:
    """Return the mask of a COCO annotation as the compressed run lengths of the whole object."""
    from pycocotools import mask as masks  # here, because only detection needs it

    if isinstance(mask, list):
        return masks.merge(masks.frPyObjects(mask, height, width))
    return masks.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else dict(mask)


def leaves_image(mask: Sequence[Sequence[float]], height: int, width: int) -> bool:
    """Whether a polygon of a valid mask has a corner more than a pixel outside the image."""
    return any(
        min(polygon) < -1 or max(polygon[::2]) > width + 1 or max(polygon[1::2]) > height + 1 for polygon in mask
    )


def _polygon_fault(polygon: Any, height: int, width: int) -> str | None:
    if not isinstance(polygon, list):
        return f"a polygon that is not a list of numbers x, y, x, y, ... but {type(polygon).__name__}"
    if not _are_numbers(polygon):
        wrong = next((value for value in polygon if not is_number(value)), "numbers too large")
        return f"a polygon with {wrong!r} among its numbers"
    if len(polygon) % 2:
        return f"a polygon of an odd number of values, {len(polygon)}; they are x, y, x, y, and so on"
    if len(polygon) < 6:
        return f"a polygon of {len(polygon)} values; it needs three corners, 6 values, or more"
    if not all(-_FAR * side <= value <= _FAR * side for side, value in _sides_and_values(polygon, height, width)):
        return f"a polygon far outside of the image, up to {max(map(abs, polygon)):g} in {width}x{height} pixels"
    return None


def _are_numbers(values: list) -> bool:
    """Check types and sum, which is fast in C and detects any value that is not a finite number."""
    try:
        return set(map(type, values)) <= {int, float} and -1e12 < sum(values) < 1e12
    except OverflowError:  # an integer too large for a float
        return False


def _sides_and_values(polygon: list, height: int, width: int) -> list[tuple[int, float]]:
    return [(width, f(polygon[::2])) for f in (min, max)] + [(height, f(polygon[1::2])) for f in (min, max)]


def _run_length_fault(mask: dict, height: int, width: int) -> str | None:
    if mask.get("size") != [height, width]:
        return f"run lengths of size {mask.get('size')}, but its image has [{height}, {width}] (height, width)"
    counts = mask.get("counts")
    if isinstance(counts, str):
        counts = _decode(counts)
        if counts is None:
            return "run lengths whose text cannot be decoded"
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        return "run lengths (counts) that are not a list of whole numbers, 0 or more"
    if sum(counts) != height * width:
        return f"run lengths that add up to {sum(counts)} pixels, but its image has {height * width}"
    return None


def _decode(text: str) -> list[int] | None:
    """Decode run lengths from text; return None if the text is invalid.

    Each character has six bits, five of which belong to the number. From the fourth number on, a number is the
    difference from the run length two places before.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    return counts if not shift else None
