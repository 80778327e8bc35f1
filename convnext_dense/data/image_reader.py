"""Reads files by the loading step of a config, as training and testing do.

Letters: H, W are an image's height and width in pixels, C is its number of channels.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import Compose

from convnext_dense.config.pipelines import image_step, step_name
from convnext_dense.data.opened_images import OpenedImage, open_image
from convnext_dense.errors import UserError

# Backends of mmcv's LoadImageFromFile that leave images as they lie.
_NEVER_TURN = {"turbojpeg", "tifffile"}
_NUM_OF_COLOUR = {"color": 3, "grayscale": 1}


class ImageReader:
    """Reads files by a config's own loading step, which is built in the default scope.

    Args:
        step: Its config, such as ``dict(type='LoadImageFromFile', color_type='grayscale')``.

    Attributes:
        color_type: What mmcv's steps call the kind of pixels; ``'unchanged'`` for steps that do not say.
        turns_images: Whether images are turned upright by their EXIF.
        is_known: Whether it is mmcv's step, for files of this machine: then Pillow and OpenCV can say what is wrong.
    """

    def __init__(self, step: Mapping[str, Any]) -> None:
        self.step = step
        self.name = step_name(step)
        is_mmcvs = self.name == "LoadImageFromFile"
        self.color_type = step.get("color_type", "color" if is_mmcvs else "unchanged")
        lies = self.color_type == "unchanged" or self.color_type.endswith("ignore_orientation")
        self.turns_images = not (is_mmcvs and (lies or step.get("imdecode_backend") in _NEVER_TURN))
        backend = (step.get("backend_args") or {}).get("backend", "local")
        self.is_known = is_mmcvs and backend == "local" and not step.get("file_client_args")
        self._load: Compose | None = None

    @property
    def channels(self) -> int | None:
        """Channels of every image, or None where the file decides."""
        return _NUM_OF_COLOUR.get(self.color_type.removesuffix("_ignore_orientation"))

    def open(self, path: str | os.PathLike) -> OpenedImage:
        """Open a file with care, and say what it is; what Pillow does not know is left to a step of another kind.

        Raises:
            UserError: As for ``open_image``.
        """
        try:
            return open_image(path)
        except UserError:
            if self.is_known or not Path(path).exists():
                raise
            height, width = self(path).shape[:2]
            return OpenedImage(height, width, "", 1)

    def __call__(self, path: str | os.PathLike) -> np.ndarray:
        """Return the (H, W) or (H, W, C) array that a pipeline goes on with.

        Raises:
            UserError: The step cannot read the file.
        """
        if self._load is None:
            self._load = Compose([dict(self.step)])
        try:
            return self._load(dict(img_path=os.fspath(path)))["img"]
        except (cv2.error, AssertionError, OSError) as error:
            if not self.is_known:
                raise UserError(f"Image {path} cannot be read by {self.name}: {error}.") from error
            raise UserError(decoding_fault(path, self.color_type)) from error


def decoding_fault(path: str | os.PathLike, color_type: str = "color") -> str:
    """Say in a sentence why a loading step cannot read a file."""
    try:
        opened = open_image(path)
    except UserError as error:
        return str(error)
    if opened.has_32_bits and color_type != "unchanged":
        return (
            f"Image {path} has 32 bits per pixel (mode {opened.mode}), which LoadImageFromFile reads with "
            f"color_type='unchanged' alone, not '{color_type}': save it with 8 or 16 bits."
        )
    return f"Image {path} (mode {opened.mode}) cannot be decoded by the config's loading step: save it as PNG or JPEG."


def reader_of(pipeline: Sequence[Mapping[str, Any]] | None) -> ImageReader | None:
    """Return the reader of a data set's pipeline, or None where it has none."""
    return ImageReader(pipeline[image_step(pipeline)]) if pipeline else None
