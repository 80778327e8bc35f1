"""Draws the ground truth of a config's data sets on one sheet: what no check can tell, a look often can."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from PIL import Image

from convnext_dense.config.datasets import class_names, known_class_names, loaded_datasets
from convnext_dense.data.checks.coco import coco_splits
from convnext_dense.data.checks.coco_masks import encode_mask, is_number, mask_fault
from convnext_dense.data.checks.inspection import evenly_spread
from convnext_dense.data.checks.segmentation import find_pairs, label_splits, reduces_zero_label
from convnext_dense.data.image_reader import ImageReader, reader_of
from convnext_dense.data.opened_images import open_image
from convnext_dense.data.own.classification import folder_images
from convnext_dense.data.own.detection import is_id, read_annotations
from convnext_dense.data.own.segmentation import make_palette
from convnext_dense.data.unlabelled_images import nested_images
from convnext_dense.data.upright_images import read_bgr
from convnext_dense.errors import UserError
from convnext_dense.visualization import (
    annotated_object,
    draw_labels,
    draw_objects,
    enlarge,
    write_caption,
    write_sheet,
)

_SIDE = 420  # pixels of the longer side of a picture
_PER_SPLIT = 6
_NUM_COLUMNS = 3


def draw_overlay(cfg: Config, loaders: Sequence[str], path: Path, task: str) -> int:
    """Draw six images of every data set, evenly spread, with boxes, masks, labels and class names.

    What the checks refuse, such as an image that cannot be decoded, is left out.

    Args:
        cfg: The config whose data is drawn.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` are drawn.
        path: The picture to write.
        task: A key of ``tasks.TASKS``.

    Returns:
        How many images are on the sheet; with 0 nothing is written.
    """
    groups = [[picture] for picture in _PICTURES[task](cfg, loaders)]
    if groups:
        write_sheet(path, groups, num_columns=_NUM_COLUMNS)
    return len(groups)


def _read(path: Path, reader: ImageReader | None = None) -> np.ndarray | None:
    """Return a picture of what the model is going to see; None where the checks refuse the image."""
    try:
        if reader is None:
            open_image(path)
            return read_bgr(path)
        reader.open(path)
        return reader.picture(path)
    except UserError:
        return None


def _draw_detection(cfg: Config, loaders: Sequence[str]) -> Iterator[np.ndarray]:
    for split in coco_splits(cfg, loaders):
        try:
            content = read_annotations(split.path, needs_objects=False)
        except UserError:
            continue
        names = {category["id"]: category["name"] for category in content["categories"]}
        numbers = {category_id: number for number, category_id in enumerate(names)}  # ids may be text
        objects = defaultdict(list)
        for annotation in content["annotations"]:
            box = annotation.get("bbox")
            is_box = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
            image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
            if is_box and is_id(image_id) and is_id(category_id) and category_id in names:
                objects[image_id].append(annotation)
        images, reader = content["images"], reader_of(split.dataset.get("pipeline"))
        for image in evenly_spread([image for image in images if image["id"] in objects] or images, _PER_SPLIT):
            pixels = _read(split.folder / image["file_name"], reader)
            if pixels is not None:
                picture, zoom = enlarge(pixels, _SIDE)
                found = [
                    annotated_object(
                        annotation,
                        names[annotation["category_id"]],
                        numbers[annotation["category_id"]],
                        mask=_mask_of(annotation, image),
                        zoom=zoom,
                    )
                    for annotation in objects[image["id"]]
                ]
                drawn = draw_objects(picture, found)
                yield write_caption(drawn, f"{split.loader} {image['file_name']}: {len(found)} objects")


def _mask_of(annotation: dict[str, Any], image: dict[str, Any]) -> np.ndarray | None:
    from pycocotools import mask as masks

    mask, size = annotation.get("segmentation"), (image["height"], image["width"])
    return masks.decode(encode_mask(mask, *size)) if mask and mask_fault(mask, *size) is None else None


def _draw_segmentation(cfg: Config, loaders: Sequence[str]) -> Iterator[np.ndarray]:
    for split in label_splits(cfg, loaders):
        try:
            pairs = find_pairs(split)
        except UserError:
            continue
        names = list(known_class_names(split.dataset) or class_names(split.dataset) or ())
        # The last entry is for whatever is no class.
        colours = np.array([*make_palette(len(names)), [255, 255, 255]], np.uint8)[:, ::-1]
        numbers = np.full(256, len(names), np.int64)
        first = int(reduces_zero_label(split.dataset))
        numbers[first : first + len(names)] = np.arange(len(names))
        reader = reader_of(split.dataset.get("pipeline"))
        for image, label in evenly_spread(pairs, _PER_SPLIT):
            pixels = _read(image, reader)
            if pixels is None or _read(label) is None:
                continue
            with Image.open(label) as file:
                values = np.asarray(file)
            if values.ndim != 2:
                continue
            picture, _ = enlarge(pixels, _SIDE)
            found: np.ndarray = numbers[np.clip(values, 0, 255).astype(np.uint8)].astype(np.uint8)
            found = cv2.resize(found, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            drawn = draw_labels(found, [*names, "no class"], colours, image=picture)
            yield write_caption(drawn, f"{split.loader} {image.name}")


def _draw_classification(cfg: Config, loaders: Sequence[str]) -> Iterator[np.ndarray]:
    for loader, files in folder_images(cfg, loaders):
        for file, label in evenly_spread(files, _PER_SPLIT):
            pixels = _read(file)
            if pixels is not None:
                yield write_caption(enlarge(pixels, _SIDE)[0], f"{label}  ({loader} {file.name})")


def _draw_unlabelled(cfg: Config, loaders: Sequence[str]) -> Iterator[np.ndarray]:
    for loader, dataset in loaded_datasets(cfg, loaders):
        for file in evenly_spread(nested_images(dataset.root) if "root" in dataset else [], _PER_SPLIT):
            pixels = _read(file)
            if pixels is not None:
                yield write_caption(enlarge(pixels, _SIDE)[0], f"{loader} {file.name}")


_PICTURES: dict[str, Callable[[Config, Sequence[str]], Iterator[np.ndarray]]] = {
    "detection": _draw_detection,
    "segmentation": _draw_segmentation,
    "classification": _draw_classification,
    "pretraining": _draw_unlabelled,
}
