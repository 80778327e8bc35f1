"""Checks segmentation data before the first iteration: pairs of files, sizes, label values, numbers of classes."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from PIL import Image

from convnext_dense.data.dataset_configs import class_names, known_class_names, leaf_datasets, quote, read_lines
from convnext_dense.data.segmentation_folder import LAYOUT, decode_heads

# Reading all of ADE20K's labels takes minutes; this many, evenly spread, take about a second.
NUM_READ = 64

_EXIF_ORIENTATION = 0x0112
ADE_LAYOUT = "images/training/*.jpg, annotations/training/*.png, images/validation/*.jpg, annotations/validation/*.png"


def check_segmentation_data(cfg: Config, loaders: Sequence[str]) -> list[str]:
    """Holds every data set of images and label images that is going to be read against the config.

    Args:
        cfg: The config of the run.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` are going to be used.

    Returns:
        One sentence per data set, with the share of each kind of pixel that matters.

    Raises:
        ValueError: A file is missing or broken, a label does not have its image's size or has a value that is no class,
            or a head has another number of classes; the message names the file and the value.
    """
    lines = []
    checked = set()
    for loader in loaders:
        if cfg.get(f"{loader}_dataloader") is None:
            continue
        for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
            prefix = dataset.get("data_prefix") or ConfigDict()
            if not prefix.get("img_path") or not prefix.get("seg_map_path"):
                continue
            root = Path(dataset.get("data_root") or "")
            images, labels = root / prefix.img_path, root / prefix.seg_map_path
            if (images, labels) in checked:
                continue
            checked.add((images, labels))
            classes = _check_classes(cfg.model, dataset, labels)
            pairs = _find_pairs(images, labels, dataset)
            lines.append(_check_labels(pairs, classes, dataset, folder=labels))
    return lines


def _check_classes(model: ConfigDict, dataset: ConfigDict, labels: Path) -> Sequence[str]:
    classes = class_names(dataset)
    if classes is None:
        raise ValueError(f"The data set of {labels} has no class names: set metainfo=dict(classes=(...)).")
    for head in decode_heads(model):
        if head.num_classes != len(classes):
            raise ValueError(
                f"The config's {head.get('type')} has num_classes={head.num_classes}, but there are {len(classes)} "
                f"classes ({quote(classes)}) for {labels}."
            )
    return classes


def _find_pairs(images: Path, labels: Path, dataset: ConfigDict) -> list[tuple[Path, Path]]:
    """Pairs every image of a folder and its sub-folders with its label image."""
    for folder in (images, labels):
        if not folder.is_dir():
            is_ade = str(dataset.get("type")).endswith("ADE20KDataset")
            put = f"Put ADE20K there ({ADE_LAYOUT})" if is_ade else "Put the data there"
            raise ValueError(
                f"There is no data at {dataset.get('data_root') or folder}: {folder} does not exist. {put}, or point "
                f"to a folder of your own with --data DIR. Expected:\n{LAYOUT}"
            )
    image_suffix, label_suffix = _suffix(dataset, "img_suffix", ".jpg"), _suffix(dataset, "seg_map_suffix", ".png")
    listed = dataset.get("ann_file")
    if listed:
        names_file = Path(dataset.get("data_root") or "", listed)
        if not names_file.is_file():
            raise ValueError(f"The list of images {names_file} does not exist.")
        stems = read_lines(names_file)
    else:
        found = _list_files(images)
        stems = sorted(name.removesuffix(image_suffix) for name in found if name.endswith(image_suffix))
        if not stems:
            raise ValueError(
                f"There is no image that ends in '{image_suffix}' in {images}; {_describe(found)}. Set img_suffix of "
                "the data set."
            )
    present = set(_list_files(labels))
    missing = [stem + label_suffix for stem in stems if stem + label_suffix not in present]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(stems)} images of {images} have no label in {labels}, such as "
            f"{quote(missing, 3)}; {_describe(sorted(present))}."
        )
    return [(images / (stem + image_suffix), labels / (stem + label_suffix)) for stem in stems]


def _suffix(dataset: ConfigDict, key: str, default: str) -> str:
    # ADE20KDataset fixes its own suffixes, which are the defaults of every other data set too.
    return dataset.get(key) or default


def _list_files(folder: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
    ]


def _describe(names: Sequence[str]) -> str:
    return f"it has {len(names)} files, such as {quote(names, 3)}" if names else "it is empty"


def _check_labels(
    pairs: Sequence[tuple[Path, Path]], classes: Sequence[str], dataset: ConfigDict, *, folder: Path
) -> str:
    ignored = dataset.get("ignore_index", 255)
    reduced = _reduces_zero_label(dataset)
    # A data set that knows its classes may be used with some of them; its files have all of them.
    num_written = len(known_class_names(dataset) or classes)
    # With reduce_zero_label 0 is ignored and class i is written as i + 1.
    allowed = {*range(num_written + reduced), ignored}
    histogram = np.zeros(256, np.int64)
    step = max(1, len(pairs) // NUM_READ)
    for image, label in pairs[::step]:
        values, counts = np.unique(_read_label(label, image), return_counts=True)
        outside = [int(value) for value in values if int(value) not in allowed]
        if outside:
            raise ValueError(_outside_message(label, outside, values, num_written, reduced=reduced))
        histogram[values] += counts
    used = [value for value in np.flatnonzero(histogram) if value != ignored]
    num_ignored = histogram[ignored] + (histogram[0] if reduced else 0)
    if num_ignored == histogram.sum():
        raise ValueError(
            f"Every pixel of {len(pairs[::step])} labels read in {folder} is ignored: nothing can be learnt."
        )
    seen = sum(1 for value in used if not (reduced and value == 0))
    line = (
        f"{folder}: {len(pairs)} images; in {len(pairs[::step])} labels read, {seen} of {num_written} classes occur "
        f"and {num_ignored / histogram.sum():.1%} of the pixels are ignored."
    )
    if reduced and used == list(range(num_written)) and num_written > 1:
        line += (
            f" The labels look off by one: 0 to {num_written - 1} occur and {num_written} does not, but with "
            "reduce_zero_label=True classes are written from 1 on and 0 is ignored."
        )
    return line


def _reduces_zero_label(dataset: ConfigDict) -> bool:
    # ADE20KDataset's own default, which is where ADE20K's numbering from 1 is known.
    return bool(dataset.get("reduce_zero_label", str(dataset.get("type")).endswith("ADE20KDataset")))


def _read_label(label: Path, image: Path) -> np.ndarray:
    try:
        with Image.open(label) as file:
            values = np.asarray(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"Label {label} cannot be decoded: it is truncated or not an image.") from error
    try:
        with Image.open(image) as file:
            file.load()
            is_turned = file.getexif().get(_EXIF_ORIENTATION, 1) >= 5  # lies on its side; the reader turns it upright
            height, width = file.size if is_turned else file.size[::-1]
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"Image {image} cannot be decoded: it is truncated or not an image.") from error
    if values.ndim != 2:
        raise ValueError(
            f"Label {label} has {values.shape[-1]} channels: it must have one, whose pixels are class numbers, not "
            "colours."
        )
    if values.shape != (height, width):
        raise ValueError(
            f"Label {label} is {values.shape[1]}x{values.shape[0]} pixels, but its image {image} is {width}x{height}."
        )
    if values.max(initial=0) > 255:
        raise ValueError(f"Label {label} has values up to {values.max()}; labels are read as 8-bit numbers, 0 to 255.")
    return values.astype(np.uint8)


def _outside_message(
    label: Path, outside: Sequence[int], values: np.ndarray, num_classes: int, *, reduced: bool
) -> str:
    first = 1 if reduced else 0
    message = (
        f"Label {label} has the values {', '.join(map(str, outside[:10]))}{' ...' if len(outside) > 10 else ''}, but "
        f"{num_classes} classes are numbered {first} to {num_classes - 1 + first}"
        f"{' (0 is ignored by reduce_zero_label=True)' if reduced else ''}, and 255 is ignored."
    )
    if not reduced and outside == [num_classes] and 0 not in values:
        message += (
            f" The labels look off by one: from 1 to {num_classes}; set reduce_zero_label=True in the data set, or "
            "write class numbers from 0 on."
        )
    return message
