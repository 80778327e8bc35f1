"""Opens image files safely: reads the size before the pixels, and reports what readers change silently."""

import contextlib
import math
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.corrupt_images import UNREADABLE
from convnext_dense.data.upright_images import has_16_bits, orientation_of, read_bgr
from convnext_dense.errors import UserError

if TYPE_CHECKING:
    from convnext_dense.data.image_reader import ImageReader

# The limit above which Pillow suspects a decompression bomb; OpenCV's own, 2**30, lets 3 GB through.
MAX_PIXELS = 178_956_970
_LIMIT_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"

_LOCK = threading.Lock()
_LIES_ON_ITS_SIDE = 5  # and above: width and height are swapped when the image is turned upright

# Files with these suffixes are the images of a folder.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# In a folder without these, files with this suffix are; they may be labels or features anywhere else.
ARRAY_SUFFIX = ".npy"
# All that may be an image where an annotation or a label says so.
READABLE_SUFFIXES = (*IMAGE_SUFFIXES, ARRAY_SUFFIX)


class OpenedImage(NamedTuple):
    """Properties of an image file.

    Attributes:
        height: Height of the upright image in pixels.
        width: Width of the upright image in pixels.
        mode: Pillow's mode, such as ``'RGB'`` or ``'I;16'``; empty where Pillow cannot read it.
        orientation: EXIF orientation, 1 for upright.
        has_32_bits: Whether a pixel has 32 bits, so that its scale is unknown.
    """

    height: int
    width: int
    mode: str
    orientation: int
    has_32_bits: bool = False


def pixel_limit() -> int:
    """Return the largest number of pixels that is decoded: ``OPENCV_IO_MAX_IMAGE_PIXELS``, or else ``MAX_PIXELS``."""
    return int(os.environ.get(_LIMIT_VARIABLE) or MAX_PIXELS)


class TooManyPixelsError(UserError):
    """An image claims more pixels than are decoded."""


def open_image(path: str | os.PathLike, kind: str = "Image", *, limit: int | None = None) -> OpenedImage:
    """Check the size of an image, then decode it completely.

    Args:
        path: The file.
        kind: What the file is called in messages.
        limit: Pixels that are decoded at most; None for ``pixel_limit``.

    Raises:
        UserError: The file is missing, truncated or not an image.
        TooManyPixelsError: It claims more pixels than the limit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{kind} {path} {'is a folder' if path.is_dir() else 'does not exist'}.")
    if not path.stat().st_size:
        raise UserError(f"{kind} {path} is empty (0 bytes). Copy it again.")
    limit = pixel_limit() if limit is None else min(limit, pixel_limit())
    try:
        with _pillow_without_a_limit(), Image.open(path) as file:  # our own check below names the size
            width, height = file.size
            if width * height <= limit:
                file.load()
                turned = orientation_of(file)
                sides = (width, height) if turned >= _LIES_ON_ITS_SIDE else (height, width)
                is_deep = file.mode in ("I", "F") and not has_16_bits(file)
                return OpenedImage(*sides, file.mode, turned, is_deep)
    except UnidentifiedImageError:
        return _open_otherwise(path, kind)
    except UNREADABLE as error:
        raise UserError(f"{kind} {path} cannot be decoded: it is truncated or not an image. Copy it again.") from error
    raise TooManyPixelsError(
        f"{kind} {path} claims {width}x{height} pixels, more than {limit}: it was not decoded. If it is what it "
        f"claims, cut it into tiles, or set {_LIMIT_VARIABLE} to a larger number."
    )


@contextlib.contextmanager
def _pillow_without_a_limit() -> Iterator[None]:
    """Let Pillow open images of any size, without its warnings; one thread at a time, as both are of the process."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken EXIF
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open_otherwise(path: Path, kind: str) -> OpenedImage:
    """Open a file with OpenCV, which reads some formats that Pillow does not."""
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"{kind} {path} cannot be decoded: it is truncated or not an image. Copy it again.")
    height, width = pixels.shape[:2]
    return OpenedImage(height, width, "", 1)


def inspect_image(
    path: Path,
    inspection: Inspection,
    *,
    is_skipped: bool = False,
    reader: "ImageReader | None" = None,
) -> OpenedImage | None:
    """Open an image of a data set, read it as training does, and note errors and silent changes.

    Args:
        path: The image file.
        inspection: Collects the findings.
        is_skipped: Whether the data set may skip this image if it cannot be decoded.
        reader: The ``ImageReader`` of the data set; by default ``read_bgr``, as classifiers read.

    Returns:
        Properties of the file, with the height and width that the reader gives; None if it cannot be read.
    """
    refuse = inspection.warning if is_skipped else inspection.error
    try:
        image = open_image(path) if reader is None else reader.open(path)
        pixels = (reader or read_bgr)(path)
    except UserError as error:
        refuse("image files", str(error))
        return None
    layout = None if reader is None else reader.layout(path)
    if pixels.dtype == np.uint8 and (";16" in image.mode or (layout is not None and layout.bits > 8)):
        inspection.warning(
            "16-bit images",
            f"Image {path} has more than 8 bits per pixel (mode {image.mode}): it is read as 8-bit, which may "
            "leave it black. Convert it to 8 bits with a suitable scale"
            f"{'' if layout is None else f', or train with --channels {layout.channels}'}.",
        )
    has_alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") and not has_alpha:
        inspection.warning(
            "images with alpha",
            f"Image {path} has an alpha channel (mode {image.mode}), which is dropped: what it hides becomes visible.",
        )
    if image.mode == "P":
        inspection.note("palette images", f"Image {path} has a palette; it is read as the palette's colours.")
    if image.orientation != 1:
        _note_orientation(path, image, inspection, is_turned=reader is None or reader.turns_images)
    return image._replace(height=pixels.shape[0], width=pixels.shape[1])


def inspect_images(files: Sequence[Path], inspection: Inspection, dataset: Mapping[str, Any]) -> None:
    """Inspect as many of a classifier's files as are to be opened.

    Broken ones are errors beyond the share that the data set skips; where only a sample is opened, the run counts them.

    Args:
        files: All files of the data set.
        inspection: Collects the findings.
        dataset: Config of the data set, with ``root``, and ``max_corrupt_rate`` if any may be broken.
    """
    rate = dataset.get("max_corrupt_rate") or 0.0
    num_skipped = rate * len(files) if inspection.takes_time else math.inf if rate else 0
    num_corrupt = 0
    for file in inspection.follow(inspection.pick(files), f"images of {dataset['root']}"):
        num_corrupt += inspect_image(file, inspection, is_skipped=num_corrupt + 1 <= num_skipped) is None


def _note_orientation(path: Path, image: OpenedImage, inspection: Inspection, *, is_turned: bool) -> None:
    # Where the sides are swapped, wrong annotations show in a size that does not fit; otherwise nothing shows.
    is_evident = image.orientation >= _LIES_ON_ITS_SIDE and image.height != image.width
    add = inspection.note if is_evident else inspection.warning
    if is_turned:
        add(
            "EXIF-turned images",
            f"Image {path} is turned when it is read (EXIF orientation {image.orientation}): boxes and masks must be "
            "those of the upright image. Look at the overlay, or save it upright without EXIF.",
        )
    else:
        add(
            "EXIF-turned images",
            f"Image {path} is not turned when it is read, despite its EXIF (orientation {image.orientation}), because "
            "of the config's loading step: boxes and masks must be those of the image as it is stored.",
        )
