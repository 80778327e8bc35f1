"""Says what is wrong with a mask of COCO's format: polygons, or run lengths as numbers or as a string.

Source: https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (how run lengths are written as text).
"""

from collections.abc import Sequence
from typing import Any

# Beyond this many times the image's side a polygon is refused: the time and memory that drawing takes grow with it.
_FAR = 2


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number; true and false are none."""
    return type(value) in (int, float) and -1e12 < value < 1e12  # not so for nan and inf


def mask_fault(mask: Any, height: int, width: int) -> str | None:
    """Say what is wrong with the mask of an object, or None.

    Args:
        mask: ``segmentation`` of a COCO annotation, not empty.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
    """
    if isinstance(mask, list):
        return next((fault for polygon in mask if (fault := _polygon_fault(polygon, height, width))), None)
    if isinstance(mask, dict):
        return _run_length_fault(mask, height, width)
    return f"a mask that is neither polygons nor run lengths but {type(mask).__name__}"


def leaves_image(mask: Sequence[Sequence[float]], height: int, width: int) -> bool:
    """Whether a polygon of a sound mask has a corner more than a pixel outside of the image."""
    return any(
        min(polygon) < -1 or max(polygon[::2]) > width + 1 or max(polygon[1::2]) > height + 1 for polygon in mask
    )


def _polygon_fault(polygon: Any, height: int, width: int) -> str | None:
    if not isinstance(polygon, list):
        return f"a polygon that is no list of numbers x, y, x, y, ... but {type(polygon).__name__}"
    if not _are_numbers(polygon):
        wrong = next((value for value in polygon if not is_number(value)), "numbers too large")
        return f"a polygon with {wrong!r} among its numbers"
    if len(polygon) % 2:
        return f"a polygon of an odd number of values, {len(polygon)}; they are x, y, x, y, and so on"
    if len(polygon) < 6:
        return f"a polygon of {len(polygon)} values; three corners, 6 values, are the least"
    if not all(-_FAR * side <= value <= _FAR * side for side, value in _sides_and_values(polygon, height, width)):
        return f"a polygon far outside of the image, up to {max(map(abs, polygon)):g} in {width}x{height} pixels"
    return None


def _are_numbers(values: list) -> bool:
    """Types and sum run in C, and one value that is no number or not finite shows in them."""
    try:
        return set(map(type, values)) <= {int, float} and -1e12 < sum(values) < 1e12
    except OverflowError:  # a whole number beyond all floats
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
        return "run lengths (counts) that are no list of whole numbers from 0 on"
    if sum(counts) != height * width:
        return f"run lengths that sum up to {sum(counts)} pixels, but its image has {height * width}"
    return None


def _decode(text: str) -> list[int] | None:
    """Return the run lengths of a text, or None if it is none.

    A character has six bits, five of them the number's; from the third run on they are differences to the run before
    the last one.
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
