"""Reads the size of an image from its header."""

from pathlib import Path

from PIL import Image

from convnext_dense.data.opened_images import open_image

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
    try:
        with Image.open(path) as file:
            (width, height), turned = file.size, file.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        opened = open_image(path)  # reads more formats, and reports what is wrong
        return opened.height, opened.width
    return (width, height) if are_turned and turned >= _LIES_ON_ITS_SIDE else (height, width)
