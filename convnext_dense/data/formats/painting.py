"""Paints objects as label images.

Letters: H, W are the height and width of an image in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convnext_dense.data.checks.coco_masks import encode_mask, mask_fault
from convnext_dense.data.formats.label_images import IGNORED
from convnext_dense.errors import UserError


def paint_objects(
    objects: Sequence[Mapping[str, Any]],
    image: Mapping[str, Any],
    numbers: Mapping[str, int],
    *,
    background: int,
    overlaps: str,
) -> np.ndarray:
    """Return the class numbers (H, W) of an image, uint8.

    Args:
        objects: COCO entries with the class name under ``name``. Crowds are painted as ignored.
        image: COCO entry of the image.
        numbers: Class name -> number.
        background: Number of the pixels without an object.
        overlaps: What is on top: the ``'later'`` object or the ``'smaller'`` one.

    Raises:
        UserError: An object has no mask.
    """
    from pycocotools import mask as masks

    height, width = image["height"], image["width"]
    painted = np.full((height, width), background, np.uint8)
    encoded = []
    for item in objects:
        mask = item.get("segmentation")
        if not mask:
            raise UserError(
                f"The {item['name']} at {item.get('bbox')} in image {image['file_name']} has a box but no mask: label "
                "images cannot be painted from boxes."
            )
        if (fault := mask_fault(mask, height, width)) is not None:
            raise UserError(f"The {item['name']} at {item.get('bbox')} in image {image['file_name']} has {fault}.")
        mask = encode_mask(mask, height, width)
        encoded.append((int(masks.area(mask)), mask, IGNORED if item.get("iscrowd") else numbers[item["name"]]))
    if overlaps == "smaller":
        encoded.sort(key=lambda found: -found[0])
    for _, mask, number in encoded:
        painted[masks.decode(mask) == 1] = number
    return painted
