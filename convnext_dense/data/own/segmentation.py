"""Points a segmentation config at a custom folder, and sizes its heads to the classes there."""

import colorsys
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from convnext_dense.config.class_counts import set_num_classes
from convnext_dense.config.datasets import TRAINING_SPLITS, loaded_datasets, quote
from convnext_dense.data.checks.inspection import NUM_OPENED, evenly_spread
from convnext_dense.data.conversions import read_description
from convnext_dense.data.formats.class_tables import find_table, read_table
from convnext_dense.data.formats.label_images import LABEL_SUFFIXES, values_of
from convnext_dense.data.opened_images import ARRAY_SUFFIX, IMAGE_SUFFIXES
from convnext_dense.data.text_files import read_lines
from convnext_dense.errors import UserError

LAYOUT = """\
    DIR/train/NAME.jpg  DIR/semantic/train/NAME.png  DIR/val/NAME.jpg  DIR/semantic/val/NAME.png
or DIR/images/train  DIR/labels/train  (and val), or mmsegmentation's DIR/img_dir/train  DIR/ann_dir/train  (and val),
or ADE20K's, where label 0 is ignored:
    DIR/images/training  DIR/annotations/training  DIR/images/validation  DIR/annotations/validation
(test likewise; its labels may be missing).
Labels are one-channel PNGs whose pixels are class numbers; 255 is ignored. Class names are listed in DIR/classes.txt,
one per line, or given with --classes."""

NAMES_FILE = "classes.txt"
_SPLITS = ("train", "val", "test")
IGNORE_INDEX = 255


class Layout(NamedTuple):
    """Where images and labels are, relative to the folder; ``{}`` is the name of the split.

    Attributes:
        images: The folders of images.
        labels: The folders of label images.
        names: Other names of a split in this layout.
        ignores_zero: Whether label 0 is ignored.
    """

    images: str
    labels: str
    names: Mapping[str, tuple[str, ...]] = {}
    ignores_zero: bool = False


class Folders(NamedTuple):
    """Where a split is, relative to the folder.

    Attributes:
        images: The folder of its images.
        labels: The folder of its label images; None if there are only images.
        ignores_zero: Whether label 0 is ignored.
    """

    images: str
    labels: str | None
    ignores_zero: bool


_LAYOUTS = (
    Layout("{}", "semantic/{}"),
    Layout("images/{}", "labels/{}"),
    Layout("img_dir/{}", "ann_dir/{}"),
    Layout(
        "images/{}",
        "annotations/{}",
        names=dict(train=("training",), val=("validation",), test=("testing", "test")),
        ignores_zero=True,
    ),
)


def use_segmentation_folder(
    cfg: Config,
    folder: str | os.PathLike,
    classes: Sequence[str] | None = None,
    trained: Sequence[str] | None = None,
    *,
    splits: Mapping[str, str] = TRAINING_SPLITS,
) -> list[str]:
    """Rewrite the data sets and heads of a segmentation config for a folder of images and label images.

    See ``tasks.use_folder``. ``classes`` replaces ``classes.txt``; ``trained`` is used without both. A split that only
    the test loader reads need not have labels.

    Raises:
        UserError: The folder has another layout or no class names, or its images have more than one ending.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--data {root} is not a folder. Expected:\n{LAYOUT}")
    if (description := read_description(root)) is not None:
        return _use_converted(cfg, root, description, splits)
    found = _find_splits(root, set(splits.values()), {name for loader, name in splits.items() if loader != "test"})
    names = list(classes or read_class_names(root) or trained or ())
    if not names:
        raise UserError(
            f"The classes of {root} have no names: write them into {root / NAMES_FILE}, one per line by label, or give "
            "them with --classes NAME ..."
        )
    if len(set(names)) != len(names):
        raise UserError(f"A class of {root} is named twice: {', '.join(names)}.")
    for loader, dataset in loaded_datasets(cfg, splits):
        images, labels, ignores_zero = found[splits[loader]]
        for key in ("ann_file", "data_prefix", "metainfo"):  # update would merge these with the new values
            dataset.pop(key, None)
        dataset.update(
            type="mmseg.BaseSegDataset",
            data_root=str(root),
            data_prefix=dict(img_path=images) if labels is None else dict(img_path=images, seg_map_path=labels),
            img_suffix=_only_suffix(root / images),
            seg_map_suffix=".png",
            metainfo=dict(classes=tuple(names), palette=make_palette(len(names))),
            reduce_zero_label=ignores_zero,
            ignore_index=IGNORE_INDEX,
        )
    set_num_classes(cfg.model, len(names))
    return names


def _use_converted(cfg: Config, root: Path, description: dict[str, Any], splits: Mapping[str, str]) -> list[str]:
    """Point a config at lists of images, each of whose labels has the image's whole name and ``.png``."""
    names, there = description["classes"], description["splits"]
    if missing := [name for name in dict.fromkeys(splits.values()) if name not in there]:
        raise UserError(f"The data has no images and labels of {quote(missing)}; it has {quote(list(there))}.")
    for loader, dataset in loaded_datasets(cfg, splits):
        split = there[splits[loader]]
        for key in ("ann_file", "data_prefix", "metainfo", "data_root"):
            dataset.pop(key, None)
        labels = dict(seg_map_path=split["labels"]) if split["labels"] else {}
        dataset.update(
            type="mmseg.BaseSegDataset",
            ann_file=str(root / f"{splits[loader]}.txt"),
            data_prefix=dict(img_path=split["images"], **labels),
            img_suffix="",
            seg_map_suffix=".png",
            metainfo=dict(classes=tuple(names), palette=description["palette"] or make_palette(len(names))),
            reduce_zero_label=False,
            ignore_index=IGNORE_INDEX,
        )
    set_num_classes(cfg.model, len(names))
    return names


def is_plain(folder: Path) -> bool:
    """Whether the labels of a folder are read as they are: class numbers in PNGs, with images of one ending each."""
    found = [split for layout in _LAYOUTS for name in _SPLITS if (split := _folders(folder, layout, name)) is not None]
    labelled = [split for split in found if split.labels is not None]
    table = find_table(folder)
    if not labelled or (table is not None and (table.name != NAMES_FILE or read_table(table).colours)):
        return False
    for split in labelled:
        suffixes = {path.suffix for path in _files(folder / split.images) if path.suffix.lower() in IMAGE_SUFFIXES}
        labels = [path for path in _files(folder / str(split.labels)) if path.suffix.lower() in LABEL_SUFFIXES]
        if len(suffixes) > 1 or not labels or any(path.suffix != ".png" for path in labels):
            return False
        try:
            values = values_of(evenly_spread(sorted(labels), NUM_OPENED), lambda found: False)
        except UserError:
            continue  # the check of the data says what is wrong with it
        if -1 in values or (255 in values and values <= {0, 255}):
            return False
    return True


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent, name) for name in names)


def splits_of_segmentation_folder(folder: str | os.PathLike) -> list[str]:
    """Return which of ``'train'``, ``'val'`` and ``'test'`` a folder has: with labels, or with images to test on."""
    if (description := read_description(Path(folder))) is not None:
        return [name for name, split in description["splits"].items() if split["labels"] or name == "test"]
    found = {name: [_folders(Path(folder), layout, name) for layout in _LAYOUTS] for name in _SPLITS}
    return [name for name in _SPLITS if any(each and (each.labels or name == "test") for each in found[name])]


def read_class_names(root: Path) -> list[str]:
    """Read the class names from ``classes.txt``, one per line; return no names if there is no file."""
    path = root / NAMES_FILE
    return read_lines(path) if path.is_file() else []


def make_palette(num_colours: int) -> list[list[int]]:
    """Return distinct RGB colours in 0..255; the first, often the background, is dark."""
    golden = 0.618034  # the golden ratio's fraction: neighbours in the list are far apart in hue
    colours = [[40, 40, 40]]
    for index in range(num_colours - 1):
        value = (1.0, 0.75, 0.55)[index // 8 % 3]  # the brightness changes every eight hues
        red, green, blue = colorsys.hsv_to_rgb(index * golden % 1, 0.85, value)
        colours.append([round(255 * part) for part in (red, green, blue)])
    return colours[:num_colours]


def _folders(root: Path, layout: Layout, split: str) -> Folders | None:
    """Find the folders of a split in a layout, preferring those with labels; None if there are no images."""
    found = []
    for name in layout.names.get(split, (split,)):
        images, labels = layout.images.format(name), layout.labels.format(name)
        if (root / images).is_dir():
            found.append(Folders(images, labels if (root / labels).is_dir() else None, layout.ignores_zero))
    return max(found, key=lambda folders: folders.labels is not None, default=None)


def _find_splits(root: Path, wanted: set[str], labelled: set[str]) -> dict[str, Folders]:
    """Find the wanted splits in the layout with the most labels, since images alone may fit several layouts."""
    fitting = []
    for layout in _LAYOUTS:
        found = {name: _folders(root, layout, name) for name in _SPLITS}
        there = {name: folders for name, folders in found.items() if folders is not None}
        have_labels = {name for name, folders in there.items() if folders.labels is not None}
        if wanted <= set(there) and labelled <= have_labels:
            fitting.append((len(have_labels & wanted), len(have_labels), there))
    if fitting:
        return max(fitting, key=lambda fit: fit[:2])[2]
    present = splits_of_segmentation_folder(root)
    missing = [name for name in _SPLITS if name in wanted and name not in present] or sorted(wanted)
    raise UserError(
        f"--data {root} has no images and labels of {quote(missing)}{f'; it has {quote(present)}' if present else ''}. "
        f"Expected:\n{LAYOUT}"
    )


def _only_suffix(folder: Path) -> str:
    counts: dict[str, int] = {}
    for name in os.listdir(folder):
        suffix = os.path.splitext(name)[1]
        if suffix.lower() in (*IMAGE_SUFFIXES, ARRAY_SUFFIX):
            counts[suffix] = counts.get(suffix, 0) + 1
    if len(counts) > 1:
        counts.pop(ARRAY_SUFFIX, None)
    if not counts:
        raise UserError(f"There is no image in {folder}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    if len(counts) > 1:
        found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
        raise UserError(f"The images in {folder} have more than one ending ({found}): convert them to one.")
    return next(iter(counts))
