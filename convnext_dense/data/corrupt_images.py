"""Counts images that cannot be decoded, over all workers of a process, and stops when there are too many."""

import io
import logging
import multiprocessing
import struct

from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from convnext_dense.data.upright_images import to_rgb
from convnext_dense.errors import UserError

# What Pillow raises for bytes that are truncated or not an image; a missing file is an OSError too.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class CorruptImages:
    """Decodes images, and counts and logs the corrupt ones.

    Args:
        num_images: Number of images that this process reads in an epoch.
        max_rate: Share of these images, in [0, 1], that may be corrupt.

    Raises:
        UserError: ``max_rate`` is outside [0, 1].
    """

    def __init__(self, num_images: int, max_rate: float) -> None:
        if not 0.0 <= max_rate <= 1.0:
            raise UserError(f"max_corrupt_rate={max_rate} must be in [0, 1].")
        self.num_images = num_images
        self.max_rate = max_rate
        self._count = multiprocessing.Value("q", 0)

    @property
    def count(self) -> int:
        """Number of corrupt images since the last ``start_epoch``."""
        return self._count.value

    def start_epoch(self) -> None:
        """Reset the count."""
        self._count.value = 0

    def decode(self, content: bytes, name: str) -> Image.Image | None:
        """Decode an image file with ``to_rgb``; return None if it is corrupt.

        Raises:
            UserError: More than ``max_rate`` of the images are corrupt.
        """
        try:
            with Image.open(io.BytesIO(content)) as image:
                return to_rgb(image)
        except UNREADABLE as error:
            self.skip(name, error)
            return None

    def skip(self, name: str, error: BaseException) -> None:
        """Count and log a corrupt image."""
        with self._count.get_lock():
            self._count.value += 1
            count = self._count.value
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image"  # Pillow's own text contains a memory address
        else:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        if count > self.max_rate * self.num_images:
            raise UserError(
                f"Image {name} cannot be decoded ({reason}); that makes {count} of the {self.num_images} images of "
                f"this epoch, more than max_corrupt_rate={self.max_rate:g} allows. Copy the data again."
            )
        print_log(f"Skipped corrupt image {count}: {name} ({reason})", logger="current", level=logging.WARNING)
