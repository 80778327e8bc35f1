"""Converts arrays and Pillow images to the arrays that a model gets from image files.

Letters: H, W are an image's height and width in pixels, C is the number of channels that a model takes.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from convnext_dense.data.band_files import to_bands
from convnext_dense.data.upright_images import has_16_bits, orientation_of, to_rgb
from convnext_dense.errors import UserError


def to_array(
    image: Any, channels: int = 3, *, dtypes: Sequence[type] | None = (np.uint8,), mean: Sequence[float] = ()
) -> np.ndarray:
    """Convert an image to the array that a model would get from its file.

    Args:
        image: A Pillow image, or an array of shape (H, W, C) in OpenCV's channel order (B, G, R, alpha), or (H, W)
            for grey. Grey is converted to colour, colour to grey, and alpha is dropped, as OpenCV does when it reads
            files.
        channels: C; 1 gives (H, W).
        dtypes: Pixel types of the model's files; None for any.
        mean: Mean that the model subtracts. If it is above 1, pixels from 0 to 1 have the wrong scale.

    Raises:
        UserError: The image is of another kind, has no pixels, or has the wrong channels, type or scale.
    """
    if isinstance(image, Image.Image):
        image = _from_pillow(image, channels, keeps_depth=dtypes is None)
    if not isinstance(image, np.ndarray):
        raise UserError(f"An image is a {type(image).__name__}; {_wanted(channels, dtypes)}.")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    given = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if not given or not image.size:
        what = "no pixels in its" if given and not image.size else "the"
        raise UserError(f"An image array has {what} shape {image.shape}; {_wanted(channels, dtypes)}.")
    if image.dtype == bool or not np.issubdtype(image.dtype, np.number) or _is_other_type(image, dtypes):
        scaling = " (from 0 to 1: multiply by 255)" if image.dtype.kind == "f" else ""
        raise UserError(f"An image array has the type {image.dtype}{scaling}; {_wanted(channels, dtypes)}.")
    _check_scale(image, mean)
    if given != channels:
        code = _CONVERSIONS.get((given, channels))
        if code is None or image.dtype not in _CONVERTIBLE:
            raise UserError(f"An image array has the shape {image.shape}; {_wanted(channels, dtypes)}.")
        image = cv2.cvtColor(image, code)
    return np.ascontiguousarray(image)


def to_band_array(image: Any, channels: int, *, mean: Sequence[float] = ()) -> np.ndarray:
    """Convert an image to the (H, W, C) array that ``LoadBands`` would give for its file.

    Args:
        image: A Pillow image, or an array of shape (H, W, C), (C, H, W) or (H, W), with its channels in the order of
            the files.
        channels: C.
        mean: See ``to_array``.

    Raises:
        UserError: The image is of another kind or scale, or see ``to_bands``.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"An image is a {type(image).__name__}; this model takes paths, Pillow images or arrays.")
    bands = to_bands(image, channels, "An image array")
    _check_scale(bands, mean)
    return bands


def _check_scale(image: np.ndarray, mean: Sequence[float]) -> None:
    if image.dtype.kind == "f" and max(mean, default=0) > 1 and 0 < image.max() <= 1:
        raise UserError(
            f"An image array is between 0 and 1, but mean={list(mean)}: give values on the scale of the image files."
        )


# (channels given, channels wanted) -> OpenCV's conversion code.
_CONVERSIONS = {
    (1, 3): cv2.COLOR_GRAY2BGR,
    (4, 3): cv2.COLOR_BGRA2BGR,
    (3, 1): cv2.COLOR_BGR2GRAY,
    (4, 1): cv2.COLOR_BGRA2GRAY,
}
_CONVERTIBLE = (np.uint8, np.uint16, np.float32)


def _is_other_type(image: np.ndarray, dtypes: Sequence[type] | None) -> bool:
    return dtypes is not None and image.dtype not in [np.dtype(kind) for kind in dtypes]


def _wanted(channels: int, dtypes: Sequence[type] | None) -> str:
    shape = "(H, W)" if channels == 1 else f"(H, W, {channels})"
    order = {1: " of grey", 3: " in BGR order", 4: " in BGRA order"}.get(channels, "")
    kinds = (
        "of the type that the config reads" if dtypes is None else " or ".join(np.dtype(kind).name for kind in dtypes)
    )
    scale = ", 0 to 255" if kinds == "uint8" else ""
    more = ", or (H, W) for grey" if channels == 3 else ""
    return f"this model takes paths, Pillow images, or arrays of shape {shape}{order}{more}, {kinds}{scale}"


def _from_pillow(image: Image.Image, channels: int, *, keeps_depth: bool) -> np.ndarray:
    """Return what OpenCV would read from the image's file."""
    if not all(image.size):
        return np.empty((*image.size[::-1], channels), np.uint8)  # the caller refuses it for its size
    if channels == 3 or (channels == 1 and not keeps_depth):
        try:
            rgb = np.asarray(to_rgb(image))
        except ValueError as error:
            raise UserError(f"A Pillow image cannot be used: {error}.") from error
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGB2GRAY)
    image.load()
    upright = ImageOps.exif_transpose(image) if orientation_of(image) != 1 else image
    if channels == 1:
        is_grey = upright.mode in ("L", "F", "I") or has_16_bits(image)
        return np.asarray(upright if is_grey else upright.convert("L"))
    if channels == 4:
        return cv2.cvtColor(np.asarray(upright.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
    raise UserError(f"A Pillow image has {len(upright.getbands())} channels; {_wanted(channels, None)}.")
