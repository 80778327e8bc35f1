"""Pascal VOC's segmentation: palette or colour images in ``SegmentationClass``, as CVAT and Datumaro write them too.

Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html; the palette has black for the background
and (224, 224, 192) for borders, which are ignored.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import ConfigDict

from convnext_dense.config.datasets import known_class_names, quote
from convnext_dense.data.formats.class_tables import ClassTable, Colour, find_table, read_table
from convnext_dense.data.formats.label_images import LABEL_SUFFIXES, Pair
from convnext_dense.data.opened_images import READABLE_SUFFIXES
from convnext_dense.data.text_files import read_lines
from convnext_dense.errors import UserError

NAME = "Pascal VOC's segmentation"
_IMAGES, _LABELS, _SETS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
_BORDER = (224, 224, 192)


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    if not (folder / _LABELS).is_dir() or not (folder / _IMAGES).is_dir():
        return None
    listed = [split for split in ("train", "val", "test") if _list_of(folder, split).is_file()]
    return listed or ["train"]


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the folders and files on whose content the labels depend."""
    yield from (folder / name for name in (_IMAGES, _LABELS, _SETS))
    if (table := find_table(folder)) is not None:
        yield table


def list_pairs(folder: Path, split: str) -> list[Pair]:
    """List the images of a split with their labels, in the order of the image set.

    Raises:
        UserError: A listed image or label does not exist.
    """
    file = _list_of(folder, split)
    if file.is_file():
        names = [
            (line.split()[0], f"Image set {file}, entry {number},") for number, line in enumerate(read_lines(file), 1)
        ]
    else:
        labels = sorted(path for path in (folder / _LABELS).iterdir() if path.suffix.lower() in LABEL_SUFFIXES)
        names = [(path.stem, f"Label {path}") for path in labels]
    pairs = []
    for name, source in names:
        image, label = (
            _existing(folder / part, name, suffixes)
            for part, suffixes in ((_IMAGES, READABLE_SUFFIXES), (_LABELS, LABEL_SUFFIXES))
        )
        if image is None or (label is None and split != "test"):
            missing = folder / (_IMAGES if image is None else _LABELS) / name
            raise UserError(f"{source} needs {missing}{'.jpg' if image is None else '.png'}, which does not exist.")
        pairs.append(Pair(image, label))
    if not pairs:
        raise UserError(f"{file if file.is_file() else folder / _LABELS} names no image.")
    return pairs


def class_table(folder: Path, pairs: Sequence[Pair], names: Sequence[str] | None) -> tuple[ClassTable, str] | None:
    """Return the classes of a folder's labels and where they are from; VOC's own where there is no table."""
    file = find_table(folder)
    if file is not None:
        table = read_table(file)
        if table.colours is None:
            table = table._replace(colours=tuple(map(_palette_colour, table.values)), ignored=frozenset({255, _BORDER}))
        if names and len(names) == len(table.names):
            table = table._replace(names=tuple(names))
        elif names:
            raise UserError(
                f"--classes has {len(names)} names, but {file} has {len(table.names)}: {quote(table.names)}."
            )
        return table, str(file)
    given = tuple(names or known_class_names(ConfigDict(type="mmseg.PascalVOCDataset")) or ())
    colours = tuple(map(_palette_colour, range(len(given))))
    source = "--classes" if names else "Pascal VOC"
    return ClassTable(given, tuple(range(len(given))), colours, frozenset({255, _BORDER})), source


def _palette_colour(number: int) -> Colour:
    """Return a class's colour in VOC's palette: the bits of its number go to the three parts in turn, highest first."""
    parts = [0, 0, 0]
    for place in range(8):
        for part in range(3):
            parts[part] |= (number >> (3 * place + part) & 1) << (7 - place)
    return parts[0], parts[1], parts[2]


def _list_of(folder: Path, split: str) -> Path:
    return folder / _SETS / f"{split}.txt"


def _existing(folder: Path, name: str, suffixes: Sequence[str]) -> Path | None:
    return next((path for suffix in suffixes if (path := folder / f"{name}{suffix}").is_file()), None)
