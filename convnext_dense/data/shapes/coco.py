"""Writes the scenes of ``scenes.py`` as a detection data set in the layout and format of COCO 2017.

    ROOT/train2017/000000000001.jpg ...   ROOT/annotations/instances_train2017.json
    ROOT/val2017/000000000001.jpg ...     ROOT/annotations/instances_val2017.json

Letters: H, W are the height and width of an image in pixels.
"""

import contextlib
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convnext_dense.data.run_lengths import encode_rle
from convnext_dense.data.shapes.files import GENERATOR_VERSION, encode_jpeg, make_writer
from convnext_dense.data.shapes.scenes import CLASS_NAMES, SPLITS, SceneObject, split_scene
from convnext_dense.errors import UserError
from convnext_dense.visualization import annotated_object, draw_objects, write_sheet

_LOG_INTERVAL = 200
logger = logging.getLogger(__name__)


def encode_polygons(mask: np.ndarray) -> list[list[int]] | None:
    """Trace an (H, W) bool mask along the corners of its pixels, so that filling the polygons gives the mask back.

    Returns:
        COCO polygons [x, y, x, y, ...], one per separate part; None if there is a hole, which polygons cannot express.
    """
    # OpenCV traces through the centres of the border pixels, half a pixel inside the true outline. With each pixel
    # doubled, an even index is its left (upper) half and an odd one its right (lower) half, so that (index + 1) // 2
    # is the outer corner.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    has_hole = (hierarchy[0, :, 3] >= 0).any()  # column 3: the enclosing contour
    if has_hole:
        return None
    polygons = []
    for contour in contours:
        corners = (contour[:, 0] + 1) // 2
        is_repeated = (corners == np.roll(corners, 1, axis=0)).all(axis=1)
        polygons.append(corners[~is_repeated].flatten().tolist())
    return polygons


def _annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2017.json"


def _write_split(root: Path, split: str, count: int, parameters: dict[str, Any]) -> None:
    folder = root / f"{split}2017"
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        scene = split_scene(split, i, seed=parameters["seed"], image_size=parameters["image_size"])
        image_id = i + 1
        file_name = f"{image_id:012d}.jpg"
        (folder / file_name).write_bytes(encode_jpeg(scene))
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width, "license": 1})
        for scene_object in scene.objects:
            # Ids start at 1: pycocotools takes annotation 0 for "no match".
            ids = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(ids | _annotation(scene_object))
        if image_id % _LOG_INTERVAL == 0 or image_id == count:
            logger.info("%s2017: %d of %d images", split, image_id, count)
    content = {
        "info": _info(parameters),
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASS_NAMES, start=1)
        ],
    }
    path = _annotation_file(root, split)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def _info(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": "Generated shapes in the layout of COCO 2017",
        "url": "",
        "version": GENERATOR_VERSION,
        "year": 2017,
        "contributor": "convnext_dense",
        "date_created": "",  # a date would make two runs differ
        "parameters": parameters,
    }


def _annotation(scene_object: SceneObject) -> dict[str, Any]:
    mask = scene_object.mask
    polygons = None if scene_object.is_crowd else encode_polygons(mask)
    return {
        "category_id": scene_object.class_index + 1,
        "bbox": list(scene_object.box),
        "area": int(mask.sum()),
        "iscrowd": int(scene_object.is_crowd),
        "segmentation": encode_rle(mask) if polygons is None else polygons,
    }


write_coco = make_writer("coco", (*(f"{split}2017" for split in SPLITS), "annotations"), _write_split)


def draw_preview(root: str | os.PathLike[str], num_images: int, *, zoom: int = 2, num_columns: int = 3) -> Path:
    """Draw the first training images, as read back from disk, each beside a copy with its ground truth.

    Args:
        root: Folder written by ``write_coco``.
        num_images: Number of images, limited to the size of the training split.
        zoom: Factor by which the images are enlarged; at their own size, the names would hide the shapes.
        num_columns: Number of pairs side by side.

    Returns:
        Path of the picture, ``root/preview.png``.

    Raises:
        UserError: ``num_images`` is not positive, or an image is missing.
    """
    if num_images < 1:
        raise UserError(f"num_images={num_images} must be 1 or more")
    from pycocotools.coco import COCO  # here, because writing the data set does not need it

    root = Path(root)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its timing
        coco = COCO(str(root / "annotations" / "instances_train2017.json"))
    infos = coco.loadImgs(sorted(coco.getImgIds())[:num_images])
    pairs = []
    for info in infos:
        image = cv2.imread(str(root / "train2017" / info["file_name"]))
        if image is None:
            raise UserError(f"root={root} lacks a readable train2017/{info['file_name']}")
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=info["id"]))
        objects = [
            annotated_object(
                annotation,
                coco.cats[annotation["category_id"]]["name"],
                annotation["category_id"],
                mask=coco.annToMask(annotation),
                zoom=zoom,
            )
            for annotation in annotations
        ]
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
        pairs.append((image, draw_objects(image, objects)))
    return write_sheet(root / "preview.png", pairs, num_columns=num_columns)
