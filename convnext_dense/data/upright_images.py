"""Converts Pillow images to upright 8-bit RGB, as classifiers read them, whose configs have no loading step."""

import contextlib
import functools
import io
import os
import struct
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from convnext_dense.errors import UserError

_EXIF_ORIENTATION = 0x0112
_TURNED = range(2, 9)  # EXIF orientations of images that are not upright


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of a Pillow image; 1, upright, also where EXIF is broken or has another value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about broken EXIF
        with contextlib.suppress(OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
            number = image.getexif().get(_EXIF_ORIENTATION, 1)
            return number if number in _TURNED else 1
    return 1


@functools.cache
def opencv_turns(kind: str) -> bool:
    """Return whether OpenCV turns files of a format upright by their EXIF, which depends on its version.

    Args:
        kind: Pillow's name of the format, such as ``'WEBP'``. What Pillow cannot write counts as turned.
    """
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6  # a quarter turn
    file = io.BytesIO()
    try:
        Image.new("RGB", (2, 1)).save(file, kind, exif=exif)
    except (KeyError, OSError, ValueError):
        return True
    pixels = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    return pixels is None or pixels.shape[:2] == (2, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a Pillow image upright and convert it to 8-bit RGB.

    16-bit values keep their upper 8 bits, as in OpenCV, libpng and Pillow itself (for colours); for grey, Pillow would
    clip values at 255, which leaves white. An alpha channel is dropped.

    Raises:
        UserError: The image has 32 bits per pixel, whose scale is unknown.
    """
    image.load()
    upright = ImageOps.exif_transpose(image) if orientation_of(image) != 1 else image
    if has_16_bits(image):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UserError(
            f"it has 32 bits per pixel (mode {image.mode}), and nothing says which values are black and white: save it "
            "with 8 or 16 bits"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about palettes with transparency
        return upright.convert("RGB")


def has_16_bits(image: Image.Image) -> bool:
    """Whether a Pillow image is 16-bit grey, for which Pillow has used several modes."""
    return ";16" in image.mode or (image.mode == "I" and image.format in ("PNG", "PPM"))


def read_bgr(path: str | os.PathLike) -> np.ndarray:
    """Read a file with ``to_rgb`` as an (H, W, 3) array in BGR order.

    Raises:
        UserError: Pillow does not know the format, or the image has 32 bits per pixel.
    """
    try:
        with Image.open(path) as image:
            return np.ascontiguousarray(np.asarray(to_rgb(image))[..., ::-1])
    except UnidentifiedImageError as error:
        raise UserError(f"Image {path} cannot be decoded by Pillow: save it as PNG or JPEG.") from error
    except ValueError as error:
        raise UserError(f"Image {path} cannot be used: {error}.") from error
