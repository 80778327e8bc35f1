"""Reads the size of an image from its header."""

from pathlib import Path

from PIL import Image

from convnext_dense.data.band_files import read_header
from convnext_dense.data.opened_images import ARRAY_SUFFIX, open_image
from convnext_dense.data.stored_layout import stored_layout

_EXIF_ORIENTATION = 0x0112
_LIES_ON_ITS_SIDE = 5  # and above: width and height are swapped when the image is turned upright


def read_size(path: Path, *, are_turned: bool) -> tuple[int, int]:
    """Read height and width without decoding the image, which would take minutes for a large folder.

    Args:
        path: The image.
        are_turned: Whether images are turned upright according to EXIF when they are read.

    Raises:
        UserError: The image cannot be opened.
    """
    if path.suffix.lower() == ARRAY_SUFFIX:
        header = read_header(path)
        return header.height, header.width
    try:
        with Image.open(path) as file:
            (width, height), turned = file.size, file.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        if (layout := stored_layout(path)) is not None:  # such as a TIFF of five channels
            return layout.height, layout.width
        opened = open_image(path)  # reads more formats, and reports what is wrong
        return opened.height, opened.width
    return (width, height) if are_turned and turned >= _LIES_ON_ITS_SIDE else (height, width)
