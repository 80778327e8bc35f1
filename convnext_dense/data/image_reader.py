"""Reads image files with the loading step of a config, as training and testing do.

Letters: H, W are an image's height and width in pixels, C is its number of channels.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import Compose
from PIL import Image, UnidentifiedImageError

from convnext_dense.config.bands import check_shown
from convnext_dense.config.pipelines import image_step, step_name
from convnext_dense.data.band_files import NUMPY_SUFFIX, TIFF_SUFFIXES, read_header
from convnext_dense.data.opened_images import OpenedImage, open_image
from convnext_dense.data.stored_layout import StoredLayout, refuse_more_than_rgb, stored_layout
from convnext_dense.data.upright_images import opencv_turns
from convnext_dense.errors import UserError
from convnext_dense.visualization import to_picture

# Backends of mmcv's LoadImageFromFile that ignore the EXIF orientation.
_NEVER_TURN = {"turbojpeg", "tifffile"}
_NUM_OF_COLOUR = {"color": 3, "grayscale": 1}


class ImageReader:
    """Reads image files with a config's own loading step, which is built in the default scope.

    Args:
        step: Config of the step, such as ``dict(type='LoadImageFromFile', color_type='grayscale')``.

    Attributes:
        color_type: ``color_type`` of mmcv's loading step; ``'unchanged'`` for steps that do not set it.
        reads_bands: Whether the step is ``LoadBands``.
        turns_images: Whether images are rotated upright according to EXIF.
        is_known: Whether the step is mmcv's and reads local files: then Pillow and OpenCV can tell why a file fails.
    """

    def __init__(self, step: Mapping[str, Any]) -> None:
        self.step = step
        self.name = step_name(step)
        is_mmcvs = self.name == "LoadImageFromFile"
        self.color_type = step.get("color_type", "color" if is_mmcvs else "unchanged")
        ignores_exif = self.color_type == "unchanged" or self.color_type.endswith("ignore_orientation")
        self.reads_bands = self.name == "LoadBands"
        never_turns = ignores_exif or step.get("imdecode_backend") in _NEVER_TURN
        self.turns_images = not (self.reads_bands or (is_mmcvs and never_turns))
        backend = (step.get("backend_args") or {}).get("backend", "local")
        self.is_known = is_mmcvs and backend == "local" and not step.get("file_client_args")
        self._load: Compose | None = None

    @property
    def channels(self) -> int | None:
        """Number of channels of every image; None if it depends on the file."""
        if self.reads_bands:
            return self.step["channels"]
        return _NUM_OF_COLOUR.get(self.color_type.removesuffix("_ignore_orientation"))

    def open(self, path: str | os.PathLike) -> OpenedImage:
        """Open and describe a file; one that Pillow and OpenCV cannot read is left to a custom loading step.

        Raises:
            UserError: The file is broken, or the step would drop some of its channels or read it unturned.
        """
        suffix = Path(path).suffix.lower()
        if self.reads_bands and suffix in (NUMPY_SUFFIX, *TIFF_SUFFIXES):
            height, width = read_header(path, self.channels)[:2]
            return OpenedImage(height, width, "", 1)
        if self.is_known and self.channels is not None and Path(path).is_file():
            refuse_more_than_rgb(path, self.name, self.channels)
        try:
            image = open_image(path)
        except UserError:
            if self.is_known or not Path(path).exists():
                raise
            height, width = self(path).shape[:2]
            return OpenedImage(height, width, "", 1)
        if image.orientation != 1 and self._is_left_unturned(path):
            raise UserError(
                f"Image {path} is turned by its EXIF (orientation {image.orientation}), which OpenCV {cv2.__version__} "
                f"does not do for {Path(path).suffix} files: install a newer opencv-python, or save it upright."
            )
        return image

    def __call__(self, path: str | os.PathLike) -> np.ndarray:
        """Return the (H, W) or (H, W, C) array that the loading step hands to the pipeline.

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

    def _is_left_unturned(self, path: str | os.PathLike) -> bool:
        """Return whether a file should be turned upright, and OpenCV, which reads it, does not."""
        if not self.turns_images or self.step.get("imdecode_backend", "cv2") != "cv2":
            return False
        try:
            with Image.open(path) as file:
                return not opencv_turns(str(file.format))
        except UnidentifiedImageError:
            return False

    def layout(self, path: str | os.PathLike) -> StoredLayout | None:
        """Return what a file stores, where mmcv's step reads it; see ``stored_layout``."""
        return stored_layout(path) if self.is_known else None

    def picture(self, path: str | os.PathLike) -> np.ndarray:
        """Return what the loading step gives as an (H, W, 3) picture in BGR order.

        Raises:
            UserError: The step cannot read the file.
        """
        return self.as_picture(self(path))

    def as_picture(self, pixels: np.ndarray) -> np.ndarray:
        """Return an array, as the loading step gives it, as an (H, W, 3) picture in BGR order."""
        shown = check_shown(self.step["channels"], self.step.get("shown")) if self.reads_bands else None
        return to_picture(pixels, shown)


def decoding_fault(path: str | os.PathLike, color_type: str = "color") -> str:
    """Explain in one sentence why a loading step cannot read a file."""
    try:
        opened = open_image(path)
    except UserError as error:
        return str(error)
    if opened.has_32_bits and color_type != "unchanged":
        return (
            f"Image {path} has 32 bits per pixel (mode {opened.mode}), which LoadImageFromFile reads only "
            f"with color_type='unchanged', not '{color_type}': save it with 8 or 16 bits, or train with --channels 1."
        )
    return f"Image {path} (mode {opened.mode}) cannot be decoded by the config's loading step: save it as PNG or JPEG."


def reader_of(pipeline: Sequence[Mapping[str, Any]] | None) -> ImageReader | None:
    """Return the reader of a data set's pipeline; None if there is no pipeline."""
    return ImageReader(pipeline[image_step(pipeline)]) if pipeline else None
