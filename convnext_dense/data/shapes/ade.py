"""Writes the scenes of ``scenes.py`` as a segmentation data set in the layout of ADE20K.

    ROOT/images/training/00000001.jpg ...     ROOT/annotations/training/00000001.png ...
    ROOT/images/validation/00000001.jpg ...   ROOT/annotations/validation/00000001.png ...
    ROOT/classes.txt

As in ADE20K, a pixel of a label image is the number of its class, from 1 (1 background, 2 circle, ...), and 0 stands
for no class: crowds, whose shapes nobody would outline one by one. Shapes have hues typical of their classes here, as
many classes of ADE20K do.

Letters: H, W are the height and width of an image in pixels.
"""

import logging
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convnext_dense.data.own.segmentation import NAMES_FILE, make_palette, read_class_names
from convnext_dense.data.shapes.files import encode_jpeg, make_writer
from convnext_dense.data.shapes.scenes import CLASS_NAMES, SPLITS, Scene, split_scene
from convnext_dense.errors import UserError
from convnext_dense.visualization import draw_labels, write_sheet

SEGMENTATION_CLASS_NAMES = ("background", *CLASS_NAMES)
FOLDERS = dict(zip(SPLITS, ("training", "validation"), strict=True))

logger = logging.getLogger(__name__)


def label_image(scene: Scene) -> np.ndarray:
    """Return the (H, W) uint8 class numbers of a scene: 0 for crowds, 1 for the background, 2 and more for shapes."""
    labels = np.ones(scene.image.shape[:2], np.uint8)
    for scene_object in scene.objects:
        labels[scene_object.mask] = 0 if scene_object.is_crowd else scene_object.class_index + 2
    return labels


def _write_split(root: Path, split: str, count: int, parameters: dict[str, Any]) -> None:
    images, labels = (root / kind / FOLDERS[split] for kind in ("images", "annotations"))
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in range(count):
        scene = split_scene(
            split, index, seed=parameters["seed"], image_size=parameters["image_size"], has_class_colours=True
        )
        (images / f"{index + 1:08d}.jpg").write_bytes(encode_jpeg(scene))
        cv2.imwrite(str(labels / f"{index + 1:08d}.png"), label_image(scene))
    logger.info("%s: %d images with labels", FOLDERS[split], count)
    (root / NAMES_FILE).write_text("\n".join(SEGMENTATION_CLASS_NAMES) + "\n")


write_ade = make_writer("ade", ("images", "annotations", NAMES_FILE), _write_split)


def draw_ade_preview(root: str | os.PathLike[str], num_images: int, *, zoom: int = 2, num_columns: int = 3) -> Path:
    """Draw the first training images from disk, each beside its labels in colour, with ignored pixels in white.

    The arguments, the returned path and the errors are those of ``coco.draw_preview``.
    """
    if num_images < 1:
        raise UserError(f"num_images={num_images} must be 1 or more")
    root = Path(root)
    names = read_class_names(root)
    colours = np.array([[255, 255, 255], *make_palette(len(names))], np.uint8)[:, ::-1]  # BGR
    pairs = []
    for path in sorted((root / "images/training").glob("*.jpg"))[:num_images]:
        image = cv2.imread(str(path))
        labels = cv2.imread(str(root / "annotations/training" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        if image is None or labels is None:
            raise UserError(f"root={root} lacks a readable image or label {path.stem}")
        image, labels = (
            cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST) for picture in (image, labels)
        )
        pairs.append((image, draw_labels(labels, ["ignored", *names], colours)))
    return write_sheet(root / "preview.png", pairs, num_columns=num_columns)
