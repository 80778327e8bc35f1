"""Finds out from headers alone which channels and bits a file has that reading it as RGB of 8 bits would lose."""

import itertools
import os
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image, TiffImagePlugin

from convnext_dense.data.band_files import NUMPY_SUFFIX, TIFF_SUFFIXES, read_header
from convnext_dense.errors import UserError

_PNG_START = b"\x89PNG\r\n\x1a\n"
# Numbers of tags in TIFF 6.0, and of their values.
_WIDTH, _HEIGHT, _BITS, _COLOURS, _SAMPLES, _EXTRA = 256, 257, 258, 262, 277, 338
_PALETTE, _CMYK, _ALPHA = 3, 5, (1, 2)
_MOST_PAGES = 1000
_UNREADABLE = (OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error)


class StoredLayout(NamedTuple):
    """What a file stores.

    Attributes:
        height: In pixels, as it is stored.
        width: In pixels, as it is stored.
        channels: Bands, samples of a pixel, or pages of one sample each.
        bits: Of a value.
        extra: Channels beyond the colours that are declared as alpha.
        is_cmyk: Whether the four channels are inks, which every reader turns into RGB.
    """

    height: int
    width: int
    channels: int
    bits: int
    extra: int = 0
    is_cmyk: bool = False

    @property
    def is_beyond_pillow(self) -> bool:
        """Whether the channels are more than Pillow's and OpenCV's colours."""
        return self.channels > 4 or (self.channels in (2, 4) and self.bits > 8)


def stored_layout(path: str | os.PathLike) -> StoredLayout | None:
    """Return what a TIFF, PNG or ``.npy`` file stores; None for other formats, and for broken files.

    Raises:
        UserError: A ``.npy`` file is broken.
    """
    suffix = Path(path).suffix.lower()
    if suffix == NUMPY_SUFFIX:
        header = read_header(path)
        return StoredLayout(*header[:3], 8 * header.dtype.itemsize)
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            if suffix in TIFF_SUFFIXES:
                return _of_tiff(file)
            start = file.read(26)  # the signature, and the first fields of IHDR
            if start.startswith(_PNG_START):
                width, height, bits, kind = struct.unpack(">IIBB", start[16:26])
                return StoredLayout(height, width, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind], bits, int(kind >= 4))
    except _UNREADABLE:
        return None
    return None


def refuse_more_than_rgb(path: str | os.PathLike, step: str, channels: int) -> None:
    """Refuse a file of which a loading step for RGB would drop channels that are not alpha, or which it cannot read.

    Args:
        path: The image.
        step: Name of the loading step.
        channels: How many channels it gives.

    Raises:
        UserError: It would; the message says what the file has.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (NUMPY_SUFFIX, *TIFF_SUFFIXES):
        return
    layout = stored_layout(path)
    if layout is None or (suffix != NUMPY_SUFFIX and (layout.is_cmyk or not _is_more(path, layout))):
        return
    count = "1 channel" if layout.channels == 1 else f"{layout.channels} channels"
    raise UserError(
        f"Image {path} has {count} of {layout.bits} bits, and {step} reads {channels} of 8 bits: train with --channels "
        f"{layout.channels}."
    )


def _is_more(path: str | os.PathLike, layout: StoredLayout) -> bool:
    if layout.channels in (1, 3):
        return layout.channels == 3 and layout.bits > 16
    is_rgba = layout.channels in (2, 4) and layout.extra == 1 and layout.bits == 8
    return not (is_rgba and _looks_like_alpha(path))


def _looks_like_alpha(path: str | os.PathLike) -> bool:
    """Whether a channel declared as alpha has at most two values: software declares any fourth band as alpha."""
    try:
        with Image.open(path) as image:
            return image.getchannel("A").getcolors(2) is not None
    except _UNREADABLE:
        return True  # a broken file is reported by whoever reads it


def _of_tiff(file: object) -> StoredLayout | None:
    """Read the tags of the pages of a TIFF with Pillow, which knows the tags of files that it cannot decode."""
    head = file.read(8)  # type: ignore[attr-defined]
    if 43 in head[2:4]:  # BigTIFF
        head += file.read(8)  # type: ignore[attr-defined]
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    pages: list[StoredLayout] = []
    seen: set[int] = set()
    for _ in itertools.takewhile(lambda _: directory.next and directory.next not in seen, range(_MOST_PAGES)):
        seen.add(directory.next)
        file.seek(directory.next)  # type: ignore[attr-defined]
        directory.load(file)  # type: ignore[arg-type]
        colours, bits = directory.get(_COLOURS), max(directory.get(_BITS, (1,)))
        pages.append(
            StoredLayout(
                directory[_HEIGHT],
                directory[_WIDTH],
                directory.get(_SAMPLES, 1),
                8 if colours == _PALETTE else bits,
                sum(value in _ALPHA for value in directory.get(_EXTRA, ())),
                colours == _CMYK,
            )
        )
    if not pages:
        return None
    first = pages[0]
    bands = sum(page[:4] == first[:4] for page in pages)
    if first.channels == 1 and bands > 1 and first.bits >= 8:
        # Bands in pages of their own; an (H, W, C) array that was taken for H pages has pages as wide as its channels.
        if bands > first.width:
            return first._replace(height=bands, width=first.height, channels=first.width)
        return first._replace(channels=bands)
    return first
