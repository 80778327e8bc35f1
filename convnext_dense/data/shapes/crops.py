"""Writes single objects of the scenes of ``scenes.py`` as class folders, for pre-training a classifier.

ROOT/train/circle/000001.png ...   ROOT/val/circle/000001.png ...
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convnext_dense.data.shapes.files import make_writer
from convnext_dense.data.shapes.scenes import CLASS_NAMES, SPLITS, Scene, SceneObject, split_scene

MARGIN = 1.3  # side of a crop relative to the longer side of the box: detectors see an object's surroundings too
MIN_OBJECT_SIDE = 12  # pixels; smaller objects are hard to name even for people

logger = logging.getLogger(__name__)


def draw_crops_preview(root: str | os.PathLike[str], num_images: int, *, side: int = 96) -> Path:
    """Draw the first training crops of every class, one row per class.

    ``num_images`` is the number of crops per class, ``side`` their height and width in the picture, which is returned.
    """
    rows = []
    for name in CLASS_NAMES:
        paths = sorted((Path(root) / "train" / name).iterdir())[:num_images]
        crops = [cv2.resize(np.asarray(cv2.imread(str(path))), (side, side)) for path in paths]
        blank = np.full((side, side, 3), 255, np.uint8)
        rows.append(np.hstack(crops + [blank] * (num_images - len(crops))))
    picture = Path(root) / "preview.png"
    cv2.imwrite(str(picture), np.vstack(rows))
    return picture


def crop_object(scene: Scene, scene_object: SceneObject) -> np.ndarray:
    """Cut out the square around an object, (side, side, 3) RGB; border pixels are repeated outside the picture."""
    x, y, width, height = scene_object.box
    side = round(MARGIN * max(width, height))
    left, top = x + (width - side) // 2, y + (height - side) // 2
    rows = np.clip(np.arange(top, top + side), 0, scene.image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, scene.image.shape[1] - 1)
    return scene.image[rows[:, None], columns]


def _crops(split: str, image_size: tuple[int, int], seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the class and the crop of one object after another, scene by scene, endlessly."""
    index = 0
    while True:
        scene = split_scene(split, index, seed=seed, image_size=image_size)
        for scene_object in scene.objects:
            if not scene_object.is_crowd and max(scene_object.box[2:]) >= MIN_OBJECT_SIDE:
                yield scene_object.class_index, crop_object(scene, scene_object)
        index += 1


def _write_split(root: Path, split: str, count: int, parameters: dict[str, Any]) -> None:
    folder, crops = root / split, _crops(split, parameters["image_size"], parameters["seed"])
    for name in CLASS_NAMES:
        (folder / name).mkdir(parents=True)
    for number in range(1, count + 1):
        class_index, crop = next(crops)
        path = folder / CLASS_NAMES[class_index] / f"{number:06d}.png"
        is_written = cv2.imwrite(str(path), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
        assert is_written
    logger.info("%s: %d crops", folder.name, count)


write_crops = make_writer("crops", SPLITS, _write_split, counts=(3000, 600))
