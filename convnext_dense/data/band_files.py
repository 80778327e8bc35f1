"""Reads images of any number of channels, of 8 or 16 bits or floats, from TIFF, NumPy's .npy and other files.

Channels are called bands here, as in remote sensing, and stay in the order of the file: red, green, blue for a PNG.

Letters: H, W are an image's height and width in pixels, C is its number of bands.
"""

import io
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine import fileio

from convnext_dense.data.opened_images import pixel_limit
from convnext_dense.errors import UserError

TIFF_SUFFIXES = (".tif", ".tiff")
NUMPY_SUFFIX = ".npy"

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF


class BandHeader(NamedTuple):
    """What the header of a file says.

    Attributes:
        height: H.
        width: W.
        channels: C.
        dtype: NumPy's type of a value.
    """

    height: int
    width: int
    channels: int
    dtype: np.dtype


def read_bands(
    path: str | os.PathLike, channels: int | None = None, *, backend_args: dict[str, Any] | None = None
) -> np.ndarray:
    """Read an image as an (H, W, C) array: uint8 if it has 8 bits, else float32, in which 16 bits are exact.

    TIFF is read by tifffile, ``.npy`` by NumPy, which never unpickles, and any other file by OpenCV. Bands may be the
    first or the last axis; where the shape leaves both open, they are the shorter one.

    Args:
        path: The file, or its address if ``backend_args`` has the backend for it.
        channels: C as it must be; None for any.
        backend_args: See mmengine's ``fileio.get``.

    Raises:
        UserError: The file is missing, broken, or has other bands, other types, or values that are not finite.
    """
    content = _content(path, backend_args)
    if _is_numpy(path):
        pixels = _from_numpy(content, path, channels)
    elif content.startswith(_TIFF_STARTS):
        pixels = _from_tiff(content, path, channels)
    else:
        pixels = _from_picture(content, path)
    return to_bands(pixels, channels, f"Image {path}")


def read_header(path: str | os.PathLike, channels: int | None = None) -> BandHeader:
    """Read size, number of bands and type of a TIFF or ``.npy`` file without its pixels.

    Args:
        path: The file.
        channels: C as it is expected, for files whose shape leaves the order of axes open.

    Raises:
        UserError: The file is missing, broken, or claims more pixels than ``pixel_limit``.
    """
    _check_exists(path)
    if _is_numpy(path):
        with open(path, "rb") as file:
            return _numpy_header(file, path, channels)
    with open(path, "rb") as file:
        return _through_tifffile(file, path, channels, decodes=False)[0]


def to_bands(pixels: np.ndarray, channels: int | None, what: str) -> np.ndarray:
    """Return an array as ``read_bands`` returns that of a file.

    Args:
        pixels: (H, W) for one band, (H, W, C) or (C, H, W); numbers of any type.
        channels: C as it must be; None for any.
        what: What the image is called in messages, such as ``'Image a.tif'``.

    Raises:
        UserError: The array has another number of bands, no pixels, no numbers, or values that are not finite.
    """
    if pixels.dtype.kind not in "buif":
        raise UserError(f"{what} has values of the type {pixels.dtype}: they must be whole numbers or floats.")
    shape = pixels.shape
    pixels = _bands_last(pixels, channels)
    if pixels.ndim != 3 or not pixels.size:
        raise UserError(f"{what} has the shape {shape}: it must be (H, W), (H, W, C) or (C, H, W), none 0.")
    if channels is not None and pixels.shape[2] != channels:
        raise UserError(f"{what} has {_count(pixels.shape[2])}, but {channels} are wanted (--channels {channels}).")
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is refused below
        bands = np.ascontiguousarray(pixels, np.float32)
    if pixels.dtype.kind == "f" and not (finite := np.isfinite(bands)).all():
        row, column, band = (int(index[0]) for index in np.nonzero(~finite))
        raise UserError(
            f"{what} has {int((~finite).sum()):,} values that are not finite (NaN, infinite, or beyond float32), the "
            f"first in row {row + 1}, column {column + 1} of band {band + 1}: fill them with a number."
        )
    return bands


def _count(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _is_numpy(path: str | os.PathLike) -> bool:
    return os.fspath(path).lower().endswith(NUMPY_SUFFIX)


def _content(path: str | os.PathLike, backend_args: dict[str, Any] | None) -> bytes:
    if backend_args:
        return fileio.get(path, backend_args=backend_args)
    _check_exists(path)
    return Path(path).read_bytes()


def _check_exists(path: str | os.PathLike) -> None:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"Image {path} {'is a folder' if file.is_dir() else 'does not exist'}.")
    if not file.stat().st_size:
        raise UserError(f"Image {path} is empty (0 bytes). Copy it again.")


def _check_size(path: str | os.PathLike, height: int, width: int) -> None:
    if height * width > pixel_limit():
        raise UserError(
            f"Image {path} claims {width}x{height} pixels, more than {pixel_limit()}: it was not decoded. Cut it into "
            "tiles, or set OPENCV_IO_MAX_IMAGE_PIXELS to a larger number."
        )


def _bands_first(shape: tuple[int, ...], channels: int | None) -> bool:
    """Whether the first of three axes has the bands: where that is the wanted number, or else the shorter one."""
    if channels in (shape[0], shape[-1]):
        return shape[-1] != channels
    return shape[0] < shape[-1]


def _bands_last(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    while pixels.ndim > 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.ndim == 3 and _bands_first(pixels.shape, channels):
        return np.moveaxis(pixels, 0, -1)
    return pixels


def _header_of(shape: tuple[int, ...], dtype: np.dtype, path: str | os.PathLike, channels: int | None) -> BandHeader:
    """Return the header of an array of this shape, whose axes are as in ``to_bands``."""
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or 0 in shape:
        raise UserError(f"Image {path} has the shape {shape}: it must be (H, W), (H, W, C) or (C, H, W), none 0.")
    if _bands_first(shape, channels):
        shape = (*shape[1:], shape[0])
    _check_size(path, *shape[:2])
    return BandHeader(*shape, dtype)


def _numpy_header(file: Any, path: str | os.PathLike, channels: int | None) -> BandHeader:
    """Read the header of ``.npy``, and check that the file is as long as it says."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, EOFError) as error:
        raise UserError(f"Image {path} cannot be decoded: it is not an array in NumPy's format .npy.") from error
    if dtype.hasobject:
        raise UserError(f"Image {path} holds Python objects, which are never loaded: save an array of numbers.")
    header = _header_of(shape, dtype, path, channels)
    start = file.tell()
    if file.seek(0, io.SEEK_END) - start < math.prod(shape) * dtype.itemsize:
        raise UserError(f"Image {path} cannot be decoded: it is truncated. Copy it again.")
    return header


def _from_numpy(content: bytes, path: str | os.PathLike, channels: int | None) -> np.ndarray:
    file = io.BytesIO(content)
    _numpy_header(file, path, channels)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _from_tiff(content: bytes, path: str | os.PathLike, channels: int | None) -> np.ndarray:
    return _through_tifffile(io.BytesIO(content), path, channels, decodes=True)[1]


def _through_tifffile(
    file: Any, path: str | os.PathLike, channels: int | None, *, decodes: bool
) -> tuple[BandHeader, np.ndarray]:
    """Return the header of a TIFF's first image and, if wanted, its pixels, else an empty array."""
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            f"Image {path} is a TIFF, which the package tifffile reads: pip install 'convnext-dense[data]'."
        ) from error
    try:
        with tifffile.TiffFile(file) as tiff:
            first, *others = tiff.series
            # One band a page may come as one series, or as one each.
            pages = [first, *(each for each in others if first.axes == "YX" and _are_alike(first, each))]
            header, order = _tiff_header(first, len(pages), path, channels)
            if not decodes:
                return header, np.empty(0)
            if len(pages) > 1:
                return header, np.stack([page.asarray() for page in pages], axis=-1)
            pixels = first.asarray()
            return header, pixels.transpose(order).reshape(header[:3]) if order else pixels
    except UserError:
        raise
    except Exception as error:  # broken files raise errors of tifffile, struct, zlib, ...
        if "imagecodecs" in str(error):
            raise UserError(
                f"Image {path} has a compression that needs the package imagecodecs ({error}): pip install "
                "'convnext-dense[data]'."
            ) from error
        raise UserError(f"Image {path} cannot be decoded: it is truncated or not a TIFF. Copy it again.") from error


def _are_alike(first: Any, other: Any) -> bool:
    """Whether two series of tifffile may be two bands; a mask of one bit is none."""
    return (first.shape, first.dtype) == (other.shape, other.dtype)


def _tiff_header(
    image: Any, num_pages: int, path: str | os.PathLike, channels: int | None
) -> tuple[BandHeader, list[int]]:
    """Return the header of a series of tifffile, and the order of its axes in (H, W, C); empty where that is open."""
    axes, shape = image.axes, image.shape
    if num_pages > 1:
        return _header_of((*shape, num_pages), image.dtype, path, num_pages), []
    if len(shape) < 3 or "S" not in axes:
        return _header_of(shape, image.dtype, path, channels), []
    order = [axes.index("Y"), axes.index("X")]  # bands are named as such: no need to guess
    order += [axis for axis in range(len(shape)) if axis not in order]
    height, width, *others = (shape[axis] for axis in order)
    _check_size(path, height, width)
    return BandHeader(height, width, math.prod(others), image.dtype), order


def _from_picture(content: bytes, path: str | os.PathLike) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"Image {path} cannot be decoded: it is truncated or not an image. Copy it again.")
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return pixels
