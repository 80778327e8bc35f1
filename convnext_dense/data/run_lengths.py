"""Masks as COCO's run lengths: down the columns, first a run of False.

Letters: n masks, H and W the height and width of an image in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def encode_rle(mask: np.ndarray) -> dict[str, list[int]]:
    """Encode an (H, W) bool mask as uncompressed run lengths."""
    pixels = mask.flatten(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels[0] else counts}


def compress(mask: np.ndarray, *, left: int = 0, top: int = 0, shape: Sequence[int] | None = None) -> dict[str, Any]:
    """Encode a mask as compressed run lengths, whose ``counts`` is text.

    Args:
        mask: (h, w) of booleans or of 0 and 1: the whole mask, or a part of it, outside of which it is 0.
        left: Where in the image the first column of the part is; it may reach beyond the image.
        top: Where its first row is.
        shape: (H, W) of the image; by default the mask is whole.
    """
    from pycocotools import mask as masks  # here, because only detection needs it

    height, width = mask.shape if shape is None else shape
    mask = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)].astype(bool)
    left, top = max(left, 0), max(top, 0)
    columns = np.flatnonzero(mask.any(axis=0))
    first, end = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
    tall = np.zeros((height, end - first), bool, order="F")
    tall[top : top + len(mask)] = mask[:, first:end]
    counts = encode_rle(tall)["counts"] if end else [0]
    counts[0] += (left + first) * height
    after = (width - left - end) * height
    if len(counts) % 2:  # the last run is one of False
        counts[-1] += after
    elif after:
        counts.append(after)
    encoded = masks.frPyObjects(dict(size=[height, width], counts=counts), height, width)
    return dict(size=[height, width], counts=encoded["counts"].decode())


def decode(rles: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> np.ndarray:
    """Return masks (n, H, W) of booleans from compressed run lengths of an image of that (height, width)."""
    from pycocotools import mask as masks

    decoded = np.zeros((len(rles), *shape), bool)
    for rle, mask in zip(rles, decoded, strict=True):
        mask[:] = masks.decode(dict(rle))
    return decoded
