"""Points a segmentation config at a folder of one's own, and sizes its heads to the classes there."""

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from convnext_dense.data.class_counts import set_num_classes
from convnext_dense.data.dataset_configs import leaf_datasets
from convnext_dense.data.text_files import read_lines

LAYOUT = """\
    DIR/train/NAME.jpg  DIR/semantic/train/NAME.png  DIR/val/NAME.jpg  DIR/semantic/val/NAME.png
or DIR/images/train  DIR/labels/train  (and val), or mmsegmentation's DIR/img_dir/train  DIR/ann_dir/train  (and val),
or ADE20K's, where label 0 counts for nothing:
    DIR/images/training  DIR/annotations/training  DIR/images/validation  DIR/annotations/validation
Labels are one-channel PNGs whose pixels are class numbers; 255 counts for nothing. Class names, one per line, stand in
DIR/classes.txt, or follow --classes."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
NAMES_FILE = "classes.txt"
IGNORE_INDEX = 255


class Layout(NamedTuple):
    """Where images and labels are, relative to the folder; ``{}`` stands for the name of the split."""

    images: str
    labels: str
    train: str = "train"
    val: str = "val"
    ignores_zero: bool = False


_LAYOUTS = (
    Layout("{}", "semantic/{}"),
    Layout("images/{}", "labels/{}"),
    Layout("img_dir/{}", "ann_dir/{}"),
    Layout("images/{}", "annotations/{}", train="training", val="validation", ignores_zero=True),
)


def use_segmentation_folder(
    cfg: Config, folder: str | os.PathLike, classes: Sequence[str] | None = None, trained: Sequence[str] | None = None
) -> list[str]:
    """Rewrites the data sets and heads of a segmentation config for a folder of images and label images.

    Args:
        cfg: Changed in place. Its test split becomes the folder's validation split.
        folder: See ``LAYOUT``.
        classes: Class names, by label. By default those of ``classes.txt`` in the folder.
        trained: Class names of the checkpoint that is going to be tested, for a folder that does not name its own.

    Returns:
        The class names, by label.

    Raises:
        ValueError: The folder has another layout or no class names, or images have more than one ending.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"--data {root} is not a folder. Expected:\n{LAYOUT}")
    layout = _find_layout(root)
    names = list(classes or read_class_names(root) or trained or ())
    if not names:
        raise ValueError(
            f"The classes of {root} have no names: write them into {root / NAMES_FILE}, one per line by label, or give "
            "them with --classes NAME ..."
        )
    if len(set(names)) != len(names):
        raise ValueError(f"A class of {root} is named twice: {', '.join(names)}.")
    for loader, split in (("train", layout.train), ("val", layout.val), ("test", layout.val)):
        if cfg.get(f"{loader}_dataloader") is None:
            continue
        images, labels = layout.images.format(split), layout.labels.format(split)
        for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
            dataset.pop("ann_file", None)
            dataset.update(
                type="mmseg.BaseSegDataset",
                data_root=str(root),
                data_prefix=dict(img_path=images, seg_map_path=labels),
                img_suffix=_only_suffix(root / images),
                seg_map_suffix=".png",
                metainfo=dict(classes=tuple(names), palette=make_palette(len(names))),
                reduce_zero_label=layout.ignores_zero,
                ignore_index=IGNORE_INDEX,
            )
    set_num_classes(cfg.model, len(names))
    return names


def read_class_names(root: Path) -> list[str]:
    """Reads ``classes.txt``, one name per line; without the file there are none."""
    path = root / NAMES_FILE
    return read_lines(path) if path.is_file() else []


def make_palette(num_colours: int) -> list[list[int]]:
    """Gives that many RGB colours in 0..255 that are easy to tell apart; the first, often the background, is dark."""
    golden = 0.618034  # the golden ratio's fraction: neighbours in the list are far apart in hue
    colours = [[40, 40, 40]]
    for index in range(num_colours - 1):
        value = (1.0, 0.75, 0.55)[index // 8 % 3]  # every eight hues the brightness changes
        red, green, blue = colorsys.hsv_to_rgb(index * golden % 1, 0.85, value)
        colours.append([round(255 * part) for part in (red, green, blue)])
    return colours[:num_colours]


def _find_layout(root: Path) -> Layout:
    for layout in _LAYOUTS:
        folders = [part.format(split) for part in layout[:2] for split in (layout.train, layout.val)]
        if all((root / name).is_dir() for name in folders):
            return layout
    raise ValueError(f"--data {root} has no images and labels of a train and a val split. Expected:\n{LAYOUT}")


def _only_suffix(folder: Path) -> str:
    counts: dict[str, int] = {}
    for name in os.listdir(folder):
        suffix = os.path.splitext(name)[1]
        if suffix.lower() in IMAGE_SUFFIXES:
            counts[suffix] = counts.get(suffix, 0) + 1
    if not counts:
        raise ValueError(f"There is no image in {folder}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    if len(counts) > 1:
        found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
        raise ValueError(f"The images in {folder} have more than one ending ({found}): convert them to one.")
    return next(iter(counts))
