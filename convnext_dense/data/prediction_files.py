"""Finds the images to predict, and writes predictions to files, as ``tools/test.py`` does.

Letters: n objects in an image, H and W its height and width in pixels.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnext_dense.data.opened_images import ARRAY_SUFFIX, IMAGE_SUFFIXES
from convnext_dense.data.picture_files import picture_names
from convnext_dense.errors import UserError
from convnext_dense.files import names_unwritable, written_whole
from convnext_dense.visualization import write_picture

_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")


def find_images(names: Sequence[str]) -> list[Path]:
    """List the given files, and the images of the given folders in sorted order, each file once.

    Of a folder without images of its own, those of its subfolders are listed.

    Raises:
        UserError: A path does not exist, or a folder contains no image.
    """
    found: dict[str, Path] = {}
    for path in map(Path, names):
        files = [path]
        if path.is_dir():
            files = _images_in(path, "*") or _images_in(path, "**/*")
            if not files:
                raise UserError(f"There is no image in {path}: expected files ending in {', '.join(_SUFFIXES)}.")
        elif not path.exists():
            raise UserError(f"Image {path} does not exist.")
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def _images_in(folder: Path, pattern: str) -> list[Path]:
    """List the images of a folder, or its arrays if it has no images; hidden files and folders are left out."""
    shown = [
        path for path in folder.glob(pattern) if not any(part[0] == "." for part in path.relative_to(folder).parts)
    ]
    present = sorted(path for path in shown if path.is_file())
    files = [path for path in present if path.suffix.lower() in _SUFFIXES]
    return files or [path for path in present if path.suffix.lower() == ARRAY_SUFFIX]


def name_pictures(images: Sequence[Path], out_dir: Path) -> dict[Path, Path]:
    """Return a unique picture path for every image, see ``picture_names``.

    Raises:
        UserError: A picture would overwrite an image.
    """
    names = picture_names(images)
    pictures = {image: out_dir / f"{names[os.fspath(image)]}.png" for image in images}
    originals = {os.path.realpath(image) for image in images}
    for image, picture in pictures.items():
        if os.path.realpath(picture) in originals:
            raise UserError(f"The picture of {image} would overwrite the image {picture}: choose another --out-dir.")
    return pictures


class CocoResults:
    """Collects detections, and writes ``NAME.bbox.json`` and, where there are masks, ``NAME.segm.json``.

    Args:
        path: ``NAME.json``.

    Raises:
        UserError: ``path`` does not end in ``.json``.
    """

    def __init__(self, path: str) -> None:
        if not path.endswith(".json"):
            raise UserError(f"--out {path} must end in .json.")
        self._prefix = path.removesuffix(".json")
        self._boxes: list[dict[str, Any]] = []
        self._masks: list[dict[str, Any]] = []
        self._has_masks = False

    def add(self, image_id: int | str, result: Mapping[str, Any]) -> None:
        """Add one result of ``inference.predict``. Categories are numbered from 1 in the order of the classes."""
        from pycocotools import mask as masks

        self._has_masks |= "masks" in result
        corners = np.asarray(result["boxes"], np.float64).reshape(-1, 4)
        boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
        for index, label in enumerate(result["labels"]):
            detection = dict(
                image_id=image_id,
                category_id=int(label) + 1,
                category_name=result["class_names"][label],
                bbox=boxes[index].tolist(),
                score=float(result["scores"][index]),
            )
            self._boxes.append(detection)
            if "masks" in result:
                encoded = masks.encode(np.asfortranarray(result["masks"][index], np.uint8))
                segmentation = dict(size=list(encoded["size"]), counts=encoded["counts"].decode())
                self._masks.append(dict(detection, segmentation=segmentation))

    def write(self) -> list[Path]:
        """Write the collected detections, and return the paths of the files.

        Raises:
            UserError: A file cannot be written.
        """
        contents = {"bbox": self._boxes, **({"segm": self._masks} if self._has_masks else {})}
        files = []
        for kind, content in contents.items():
            files.append(Path(f"{self._prefix}.{kind}.json"))
            with names_unwritable(files[-1]), written_whole(files[-1]) as partial:
                partial.write_text(json.dumps(content), encoding="utf-8")
        return files


def write_label_image(path: Path, label_map: np.ndarray, *, first: int) -> None:
    """Write (H, W) class numbers as a grey PNG of 8 bits, or of 16 where 8 are not enough.

    Args:
        path: The file.
        label_map: Class numbers, from 0.
        first: The number of the first class in the file: 1 where 0 means ignored.

    Raises:
        UserError: The file cannot be written.
    """
    labels = label_map.astype(np.int64) + first
    write_picture(path, labels.astype(np.uint8 if labels.max() < 256 else np.uint16))


class PredictionWriter:
    """Writes predictions as ``tools/test.py --out`` does.

    An object's ``image_id`` is the file name of its image; images of the same name are told apart by their folders.

    Args:
        out: ``NAME.json`` for detection, a folder for segmentation.
        images: All images that will be added.
        task: ``'detection'``, ``'segmentation'`` or ``'classification'``, for which nothing is written.
        first_label: The number of the first class in label images.

    Raises:
        UserError: The model's task has no such files, or ``out`` does not end in ``.json``.
    """

    def __init__(self, out: str, images: Sequence[Path], *, task: str | None, first_label: int = 0) -> None:
        if task == "classification":
            raise UserError("--out is for detection and segmentation; predict gives the classes of images.")
        self._out, self._first_label = out, first_label
        self._objects = CocoResults(out) if task == "detection" else None
        names = picture_names(images, keeps_suffix=self._objects is not None)
        self._names = {image: names[os.fspath(image)] for image in images}

    def add(self, image: Path, result: Mapping[str, Any]) -> None:
        """Add the prediction for an image."""
        if self._objects is not None:
            self._objects.add(self._names[image], result)
        else:
            write_label_image(
                Path(self._out, f"{self._names[image]}.png"), result["label_map"], first=self._first_label
            )

    def write(self) -> str:
        """Write what is still unwritten, and return where the predictions are."""
        return self._out if self._objects is None else ", ".join(map(str, self._objects.write()))
