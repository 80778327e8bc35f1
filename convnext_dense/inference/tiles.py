"""Objects of huge pictures: found in overlapping tiles, and put together.

Letters: n objects, H and W the height and width of the whole picture in pixels.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.data.run_lengths import compress, decode
from convnext_dense.errors import UserError
from convnext_dense.inference.results import Detections

# An object that ends within this share of a tile's size of the tile's inner edge is taken for cut.
NEAR_EDGE = 0.01
# Boxes of two tiles are of one object if, in the part that both tiles show, they overlap this much.
SAME_IOU = 0.5


@dataclass(frozen=True)
class Tiles:
    """How a picture is cut.

    Attributes:
        size: Height and width of a tile in pixels.
        overlap: Of neighbours, as a share of ``size``; objects up to that size are whole in at least one tile.
    """

    size: int
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"A tile of {self.size} pixels must have 1 or more.")
        if not 0 <= self.overlap < 1:
            raise UserError(f"An overlap of {self.overlap} must be a share of 1, such as 0.25.")

    def count(self, height: int, width: int) -> int:
        """Return the number of tiles of a picture."""
        return len(_starts(height, self.size, self.overlap)) * len(_starts(width, self.size, self.overlap))

    def windows(self, height: int, width: int) -> Iterator["Window"]:
        """Yield windows that cover a picture; the last of a row or column ends with it."""
        for top in _starts(height, self.size, self.overlap):
            for left in _starts(width, self.size, self.overlap):
                yield Window(left, top, min(left + self.size, width), min(top + self.size, height))


class Window(NamedTuple):
    """A part of a picture, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def _starts(length: int, size: int, overlap: float) -> list[int]:
    step = max(round(size * (1 - overlap)), 1)
    number = max(-(-(length - size) // step), 0) + 1
    return [max(min(place * step, length - size), 0) for place in range(number)]


class _Found(NamedTuple):
    """Objects of all tiles in coordinates of the picture.

    Attributes:
        boxes: (n, 4).
        scores: (n,).
        labels: (n,).
        tiles: (n,), the number of each one's tile.
        is_cut: (n,), whether an inner edge of its tile cuts the object.
        rles: Masks, or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    tiles: np.ndarray
    is_cut: np.ndarray
    rles: list[Mapping[str, Any]] | None


def find_in_tiles(
    find: Callable[[Sequence[np.ndarray]], Sequence[Detections]],
    pixels: np.ndarray,
    tiles: Tiles,
    *,
    batch_size: int = 1,
) -> Detections:
    """Find the objects of a picture tile by tile; a picture of one tile is given as a whole.

    An object that the edge of a tile cuts gives way to the whole one of a neighbour. Pieces of an object that is larger
    than the overlap are joined, box and mask.

    Args:
        find: Finds the objects of pictures.
        pixels: The picture, (H, W) or (H, W, C).
        tiles: How to cut it.
        batch_size: Tiles that are given at once.
    """
    shape = pixels.shape[:2]
    windows = list(tiles.windows(*shape))
    if len(windows) == 1:
        return find([pixels])[0]
    results: list[tuple[Window, Detections]] = []
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        parts = [np.ascontiguousarray(pixels[one.top : one.bottom, one.left : one.right]) for one in batch]
        results += zip(batch, find(parts), strict=True)
    found = _gather(results, shape, edge=NEAR_EDGE * tiles.size)
    return _joined(found, _groups(found, windows), results[0][1].class_names, shape)


def _gather(results: Sequence[tuple[Window, Detections]], shape: tuple[int, int], *, edge: float) -> _Found:
    boxes, cut = [], []
    rles: list[Mapping[str, Any]] | None = [] if results[0][1].rles is not None else None
    for window, one in results:
        moved = one.boxes + np.array([window.left, window.top, window.left, window.top], np.float32)
        inner = (window.left > 0, window.top > 0, window.right < shape[1], window.bottom < shape[0])
        gaps = np.abs(moved - np.array(window, np.float32)) <= edge
        boxes.append(moved)
        cut.append((gaps & np.array(inner)).any(axis=1))
        if rles is not None and one.rles is not None:
            masks = (decode([rle], one.shape)[0] for rle in one.rles)
            rles += [compress(mask, left=window.left, top=window.top, shape=shape) for mask in masks]
    numbers = [np.full(len(one.scores), number) for number, (_, one) in enumerate(results)]
    return _Found(
        np.concatenate(boxes),
        np.concatenate([one.scores for _, one in results]),
        np.concatenate([one.labels for _, one in results]),
        np.concatenate(numbers),
        np.concatenate(cut),
        rles,
    )


def _groups(found: _Found, windows: Sequence[Window]) -> list[list[int]]:
    """Return the objects of the picture: each the numbers of its pieces, the most certain one first."""
    same: dict[int, set[int]] = defaultdict(set)
    for one, other in _pairs(found, windows):
        same[one].add(other)
        same[other].add(one)
    is_taken = np.zeros(len(found.scores), bool)
    groups = []
    for number in np.lexsort((-found.scores, found.is_cut)).tolist():  # whole ones first, then by score
        if is_taken[number]:
            continue
        group, waiting = [], [number]
        while waiting:
            piece = waiting.pop()
            if is_taken[piece]:
                continue
            is_taken[piece] = True
            group.append(piece)
            if found.is_cut[piece]:
                waiting += same[piece]
            else:  # what shows the same as a whole object is dropped
                is_taken[list(same[piece])] = True
        groups.append(sorted(group, key=lambda piece: -found.scores[piece]))
    return sorted(groups, key=lambda group: -found.scores[group[0]])


def _pairs(found: _Found, windows: Sequence[Window]) -> Iterator[tuple[int, int]]:
    """Yield objects of two tiles that are one, judged by what both tiles show."""
    corners = np.array(windows)
    for one, other in _overlapping(corners):
        common = np.hstack(
            [np.maximum(corners[one, :2], corners[other, :2]), np.minimum(corners[one, 2:], corners[other, 2:])]
        )
        ours, theirs = (_in_common(found, number, common) for number in (one, other))
        low = np.maximum(ours.boxes[:, None, :2], theirs.boxes[None, :, :2])
        high = np.minimum(ours.boxes[:, None, 2:], theirs.boxes[None, :, 2:])
        shared = (high - low).clip(0).prod(axis=2)
        areas = [(part.boxes[:, 2:] - part.boxes[:, :2]).prod(axis=1) for part in (ours, theirs)]
        iou = shared / (areas[0][:, None] + areas[1] - shared)
        is_same = (iou > SAME_IOU) & (found.labels[ours.numbers][:, None] == found.labels[theirs.numbers])
        for first, second in np.argwhere(is_same):
            yield int(ours.numbers[first]), int(theirs.numbers[second])


def _overlapping(corners: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the pairs of boxes (n, 4) that have a part in common."""
    for one, box in enumerate(corners):
        rest = corners[one + 1 :]
        is_near = (np.maximum(rest[:, :2], box[:2]) < np.minimum(rest[:, 2:], box[2:])).all(axis=1)
        for other in np.flatnonzero(is_near):
            yield one, one + 1 + int(other)


class _Common(NamedTuple):
    numbers: np.ndarray
    boxes: np.ndarray


def _in_common(found: _Found, tile: int, common: np.ndarray) -> _Common:
    """Return the objects of a tile that reach into a part of the picture, with their boxes in it."""
    numbers = np.arange(*np.searchsorted(found.tiles, (tile, tile + 1)))  # tiles are in order
    low = np.maximum(found.boxes[numbers, :2], common[:2])
    high = np.minimum(found.boxes[numbers, 2:], common[2:])
    is_inside = (high > low).all(axis=1)
    return _Common(numbers[is_inside], np.hstack([low, high])[is_inside])


def _joined(found: _Found, groups: list[list[int]], names: tuple[str, ...], shape: tuple[int, int]) -> Detections:
    from pycocotools import mask as masks

    boxes = [
        np.concatenate([found.boxes[group, :2].min(axis=0), found.boxes[group, 2:].max(axis=0)]) for group in groups
    ]
    rles = None
    if found.rles is not None:
        rles = []
        for group in groups:
            pieces = [found.rles[number] for number in group]
            if len(pieces) > 1:
                merged = masks.merge(pieces)
                pieces = [dict(size=list(merged["size"]), counts=merged["counts"].decode())]
            rles.append(pieces[0])
    first = [group[0] for group in groups]
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=found.scores[first],
        labels=found.labels[first],
        class_names=names,
        shape=shape,
        rles=None if rles is None else tuple(rles),
    )
