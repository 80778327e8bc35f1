"""The common form of all segmentation formats: label images whose pixels are class numbers, 255 where ignored.

Letters: H, W are the height and width of an image in pixels.
"""

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from convnext_dense.data.corrupt_images import UNREADABLE
from convnext_dense.data.formats.class_tables import ClassTable
from convnext_dense.data.held_out import Sample
from convnext_dense.data.opened_images import open_image
from convnext_dense.errors import UserError
from convnext_dense.files import written_whole

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".npy")
IGNORED = 255
_UNKNOWN = 256


class Pair(NamedTuple):
    """An image and its label image; the label is None if there is only an image."""

    image: Path
    label: Path | None


def read_label(path: Path, *, as_colours: bool = False) -> np.ndarray:
    """Read a label image: (H, W) of whole numbers, or (H, W, 3) of 8-bit colours in RGB order.

    Args:
        path: The file.
        as_colours: Whether a palette image gives its colours; otherwise it gives the numbers in the file.

    Raises:
        UserError: The file cannot be read, or has other pixels.
    """
    if path.suffix.lower() == ".npy":
        values = _read_npy(path)
    else:
        open_image(path, "Label")
        try:
            with Image.open(path) as file:
                kept = {"RGBA": "RGB", "LA": "L", "P": "RGB" if as_colours else "P"}.get(file.mode, file.mode)
                values = np.asarray(file if kept == file.mode else file.convert(kept))
        except UNREADABLE as error:
            raise UserError(f"Label {path} cannot be decoded: save it as PNG.") from error
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim == 3 and values.shape[2] == 3 and values.dtype == np.uint8:
        return values
    if values.ndim != 2:
        raise UserError(
            f"Label {path} has pixels of the shape {values.shape[2:]} and type {values.dtype}: labels are "
            "class numbers, or 8-bit colours."
        )
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):
            raise UserError(f"Label {path} has pixels that are not whole numbers, such as {_odd(values)}.")
        values = values.astype(np.int64)
    return values


def _odd(values: np.ndarray) -> float:
    return float(values[values != np.round(values)][0])


def _read_npy(path: Path) -> np.ndarray:
    try:
        values = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"Label {path} is not an array of NumPy: {str(error).splitlines()[0]}.") from error
    if values.dtype.kind not in "buif":
        raise UserError(f"Label {path} has the type {values.dtype}: labels are class numbers.")
    return values


class LabelDecoder:
    """Turns label images as they are into class numbers.

    Args:
        table: The classes.
        source: Where the table is from, for messages.
    """

    def __init__(self, table: ClassTable, source: str) -> None:
        self.table = table
        self.source = source
        self._by_value = np.full(_UNKNOWN, _UNKNOWN, np.int64)
        self._by_colour: dict[int, int] = {}
        for key in table.ignored:
            self._set(key, IGNORED)
        for number, value in enumerate(table.values):
            self._set(value, number)
        for number, colour in enumerate(table.colours or ()):
            self._set(colour, number)

    def _set(self, key: "int | tuple[int, int, int]", number: int) -> None:
        if isinstance(key, tuple):
            self._by_colour[_code(*key)] = number
            if len(set(key)) == 1 and self._is_grey:
                self._by_value[key[0]] = number
        elif key < _UNKNOWN and not (self._is_grey and self.table.colours):
            self._by_value[key] = number

    @property
    def _is_grey(self) -> bool:
        """Whether all colours are shades of grey, which files of one channel can hold."""
        return bool(self.table.colours) and all(len(set(colour)) == 1 for colour in self.table.colours or ())

    def __call__(self, path: Path) -> np.ndarray:
        """Return the class numbers (H, W) of a label image, uint8.

        Raises:
            UserError: The file cannot be read, or a pixel is no class.
        """
        values = read_label(path)
        if values.ndim == 2 and self._by_colour and self._is_in_table(colours := read_label(path, as_colours=True)):
            values = colours
        if values.ndim == 3 and (self._by_colour or not _is_grey(values)):
            return self._from_colours(values, path)
        values = values if values.ndim == 2 else values[..., 0]
        if values.min(initial=0) < 0 or values.max(initial=0) >= _UNKNOWN:
            wrong = values.min() if values.min() < 0 else values.max()
            raise UserError(f"Label {path} has the value {wrong}: classes are numbered 0 to 255.")
        numbers = self._by_value[values]
        if numbers.max(initial=0) == _UNKNOWN:
            y, x = np.argwhere(numbers == _UNKNOWN)[0]
            raise UserError(
                f"Label {path} has the value {values[y, x]} at pixel ({x}, {y}), which is none of the classes of "
                f"{self.source}: {self._known()}. Add it there, or leave it out with --ignore-labels {values[y, x]}."
            )
        return numbers.astype(np.uint8)

    def _is_in_table(self, colours: np.ndarray) -> bool:
        """Whether all colours of a palette image are those of classes."""
        if colours.ndim != 3:
            return False
        return all(_code(*map(int, colour)) in self._by_colour for colour in np.unique(colours.reshape(-1, 3), axis=0))

    def _known(self) -> str:
        shown = [f"{value} {name}" for name, value in zip(self.table.names, self.table.values, strict=True)]
        return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")

    def _from_colours(self, values: np.ndarray, path: Path) -> np.ndarray:
        if not self._by_colour:
            raise UserError(
                f"Label {path} has colours, and nothing says which classes they are: give a table with --colors FILE, "
                "one line 'name red green blue' per class."
            )
        codes = (values.astype(np.int32) * np.array([65536, 256, 1], np.int32)).sum(axis=2)
        found, places = np.unique(codes, return_inverse=True)
        numbers = np.array([self._by_colour.get(int(code), _UNKNOWN) for code in found])
        if _UNKNOWN in numbers:
            code = int(found[numbers == _UNKNOWN][0])
            y, x = np.argwhere(codes == code)[0]
            colour = (code >> 16, code >> 8 & 255, code & 255)
            raise UserError(
                f"Label {path} has the colour {colour} at pixel ({x}, {y}), which is none of the "
                f"{len(self.table.names)} classes of {self.source}. Add it there."
            )
        return numbers[places.reshape(codes.shape)].astype(np.uint8)


def _code(red: int, green: int, blue: int) -> int:
    return red << 16 | green << 8 | blue


def _is_grey(values: np.ndarray) -> bool:
    return values.ndim == 2 or bool((values == values[..., :1]).all())


def values_of(labels: Iterable[Path], stop: Callable[[set[int]], bool]) -> set[int]:
    """Return the values that label images of one channel have, until they are enough to ``stop``; -1 for colours."""
    found: set[int] = set()
    for label in labels:
        values = read_label(label)
        found.update(np.unique(values).tolist() if _is_grey(values) else [-1])
        if stop(found):
            break
    return found


class LabelImages:
    """Label images of one split, written one by one.

    Args:
        root: Folder that the names of images are relative to.
        folder: Folder to write label images to, each named like its image with ``.png`` added.

    Attributes:
        names: Names of the images.
        classes: The class numbers in each label image.
        has_labels: Whether any label image was written.
        left_out: How many of what was left out, by reason.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder
        self.names: list[str] = []
        self.has_labels = False
        self.classes: list[list[int]] = []
        self.left_out: Counter[str] = Counter()

    def add(self, image: Path, numbers: np.ndarray | None) -> None:
        """Add an image with its class numbers (H, W); None where there are none."""
        name = image.relative_to(self.root).as_posix()
        self.names.append(name)
        if numbers is None:
            self.classes.append([])
            return
        self.has_labels = True
        self.classes.append([int(number) for number in np.unique(numbers) if number != IGNORED])
        with written_whole(self.folder / f"{name}.png", flush=False) as partial:
            partial.write_bytes(cv2.imencode(".png", numbers)[1].tobytes())

    @property
    def labels(self) -> str | None:
        """The folder of the label images; None if there are only images."""
        return str(self.folder) if self.has_labels else None

    @property
    def samples(self) -> list[Sample]:
        """The path of each image with the classes in it."""
        return [Sample(self.root / name, found) for name, found in zip(self.names, self.classes, strict=True)]

    def part(self, places: Collection[int]) -> "LabelImages":
        """Return the images at some places of the list."""
        part = LabelImages(self.root, self.folder)
        part.has_labels = self.has_labels
        part.names = [name for place, name in enumerate(self.names) if place in places]
        part.classes = [found for place, found in enumerate(self.classes) if place in places]
        return part
