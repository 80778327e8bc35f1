"""Checks segmentation data before the first iteration: pairs of files, sizes, label values, class counts."""

import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS
from PIL import Image

from convnext_dense.config.class_counts import check_class_counts
from convnext_dense.config.datasets import class_names, known_class_names, leads_out, loaded_datasets, quote
from convnext_dense.config.predicting import leave_out_labels, only_predict
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.checks.label_counts import LabelCounts, inspect_classes, inspect_ignored, inspect_unlearnt
from convnext_dense.data.checks.split_overlap import inspect_overlap
from convnext_dense.data.image_reader import ImageReader, reader_of
from convnext_dense.data.opened_images import inspect_image, open_image
from convnext_dense.data.own.segmentation import LAYOUT
from convnext_dense.data.text_files import read_lines
from convnext_dense.errors import UserError

ADE_LAYOUT = "images/training/*.jpg, annotations/training/*.png, images/validation/*.jpg, annotations/validation/*.png"


class LabelSplit(NamedTuple):
    """A data set of images and label images that a config reads.

    Attributes:
        loader: ``'train'``, ``'val'`` or ``'test'``.
        images: Folder of the images.
        labels: Folder of the label images.
        dataset: The data set's config.
    """

    loader: str
    images: Path
    labels: Path
    dataset: ConfigDict


def check_segmentation_data(cfg: Config, loaders: Sequence[str], inspection: Inspection) -> None:
    """Check every data set of images and label images that will be read against the config.

    Args:
        cfg: The config of the run. If the test data has no labels, the config is changed in place to write predictions
            and measure nothing.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` will be used.
        inspection: Collects the findings, and one sentence per data set, with the share of ignored pixels.
    """
    files: dict[str, list[Path]] = {}
    counts: dict[str, list[LabelCounts]] = {}
    for split in label_splits(cfg, loaders):
        try:
            classes = _check_classes(cfg.model, split.dataset, split.labels)
            pairs = find_pairs(split)
        except UserError as error:
            inspection.error("folders and classes", str(error))
            continue
        files.setdefault(split.loader, []).extend(image for image, _ in pairs)
        counts.setdefault(split.loader, []).append(_inspect_labels(pairs, classes, split, inspection))
        used = {label for _, label in pairs}
        unused = [name for name in sorted(_list_files(split.labels)) if split.labels / name not in used]
        if unused and not split.dataset.get("ann_file"):  # a list is a choice of images
            inspection.warning(
                "labels without images",
                f"{split.labels} has labels without an image in {split.images}, such as {quote(unused, 3)}.",
                len(unused),
            )
    for loader, found in counts.items():
        inspect_classes(found, loader, inspection)
    others = [each for loader, found in counts.items() if loader != "train" for each in found]
    inspect_unlearnt(counts.get("train", []), others, inspection)
    if "test" in loaders:
        _inspect_unlabelled(cfg, inspection)
    if inspection.takes_time:
        inspect_overlap(files, inspection)


def _inspect_unlabelled(cfg: Config, inspection: Inspection) -> None:
    """Check the images of a test data set without labels, and remove the loading of labels from its pipelines."""
    for _, dataset in loaded_datasets(cfg, ["test"]):
        prefix = dataset.get("data_prefix") or {}
        if not prefix.get("img_path") or prefix.get("seg_map_path"):
            continue
        images = Path(dataset.get("data_root") or "", prefix["img_path"])
        suffix = _argument(dataset, "img_suffix", ".jpg")
        listed = dataset.get("ann_file")
        names = read_lines(Path(dataset.get("data_root") or "", listed)) if listed else _list_files(images)
        names = sorted(name for name in names if name.endswith(suffix))
        if not names:
            inspection.error("folders and classes", f"There is no image that ends in '{suffix}' in {images}.")
        reader = reader_of(dataset.get("pipeline"))
        for name in inspection.follow(inspection.pick(names), f"images of {images}"):
            inspect_image(images / name, inspection, reader=reader)
        inspection.lines.append(f"{images}: {len(names)} images without labels, so nothing is measured.")
        only_predict(cfg, "test")
        leave_out_labels(cfg, "test")


def label_splits(cfg: Config, loaders: Sequence[str]) -> Iterator[LabelSplit]:
    """Yield the data sets of images and label images, each pair of folders, or list of it, once."""
    seen = set()
    for loader, dataset in loaded_datasets(cfg, loaders):
        prefix = dataset.get("data_prefix") or ConfigDict()
        if not prefix.get("img_path") or not prefix.get("seg_map_path"):
            continue
        root = Path(dataset.get("data_root") or "")
        images, labels = root / prefix.img_path, root / prefix.seg_map_path
        key = (images, labels, dataset.get("ann_file"))
        if key not in seen:
            seen.add(key)
            yield LabelSplit(loader, images, labels, dataset)


def _check_classes(model: ConfigDict, dataset: ConfigDict, labels: Path) -> Sequence[str]:
    classes = class_names(dataset)
    if classes is None:
        raise UserError(f"The data set of {labels} has no class names: set metainfo=dict(classes=(...)).")
    check_class_counts(model, classes, labels)
    return classes


def find_pairs(split: LabelSplit) -> list[tuple[Path, Path]]:
    """Pair every image of a folder and its sub-folders with its label image.

    Raises:
        UserError: A folder is missing, there is no image, or an image has no label.
    """
    _, images, labels, dataset = split
    for folder in (images, labels):
        if not folder.is_dir():
            is_ade = str(dataset.get("type")).endswith("ADE20KDataset")
            put = f"Put ADE20K there ({ADE_LAYOUT})" if is_ade else "Put the data there"
            raise UserError(
                f"There is no data at {dataset.get('data_root') or folder}: {folder} does not exist. {put}, or point "
                f"to a folder of your own with --data DIR. Expected:\n{LAYOUT}"
            )
    image_suffix, label_suffix = _argument(dataset, "img_suffix", ".jpg"), _argument(dataset, "seg_map_suffix", ".png")
    listed = dataset.get("ann_file")
    if listed:
        names_file = Path(dataset.get("data_root") or "", listed)
        if not names_file.is_file():
            raise UserError(f"The list of images {names_file} does not exist.")
        stems = read_lines(names_file)
        if outside := next(filter(leads_out, stems), None):
            raise UserError(
                f"{names_file} names the image '{outside}', which leads out of the image folder: write names relative "
                "to it."
            )
    else:
        found = _list_files(images)
        stems = sorted(name.removesuffix(image_suffix) for name in found if name.endswith(image_suffix))
        if not stems:
            raise UserError(
                f"There is no image that ends in '{image_suffix}' in {images}; {_describe(found)}. Set img_suffix of "
                "the data set."
            )
    present = set(_list_files(labels))
    missing = [stem + label_suffix for stem in stems if stem + label_suffix not in present]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(stems)} images of {images} have no label in {labels}, such as "
            f"{quote(missing, 3)}; {_describe(sorted(present))}."
        )
    return [(images / (stem + image_suffix), labels / (stem + label_suffix)) for stem in stems]


def _argument(dataset: ConfigDict, key: str, default: Any) -> Any:
    """Return an argument of a data set from the config, or its type's default, such as the suffixes of Cityscapes."""
    if dataset.get(key) is not None:
        return dataset[key]
    with DATASETS.switch_scope_and_registry(None) as registry:  # where the config's default scope is
        kind = registry.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    parameter = inspect.signature(kind).parameters.get(key) if kind is not None else None
    return default if parameter is None or parameter.default is parameter.empty else parameter.default


def _list_files(folder: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
    ]


def _describe(names: Sequence[str]) -> str:
    return f"it has {len(names)} files, such as {quote(names, 3)}" if names else "it is empty"


def _inspect_labels(
    pairs: Sequence[tuple[Path, Path]], classes: Sequence[str], split: LabelSplit, inspection: Inspection
) -> LabelCounts:
    dataset, folder = split.dataset, split.labels
    ignored, is_reduced = _argument(dataset, "ignore_index", 255), reduces_zero_label(dataset)
    # A data set with known classes may be used with some of them; its files contain all of them.
    names = known_class_names(dataset) or classes
    # With reduce_zero_label, 0 is ignored and class i is written as i + 1.
    allowed = {*range(len(names) + is_reduced), ignored}
    histogram = np.zeros(256, np.int64)
    read = inspection.pick(pairs)
    reader = reader_of(dataset.get("pipeline"))
    for image, label in inspection.follow(read, f"labels of {folder}"):
        pixels = _open_pair(image, label, inspection, reader)
        if pixels is None:
            continue
        values, counts = np.unique(pixels, return_counts=True)
        outside = [int(value) for value in values if int(value) not in allowed]
        if outside:
            message = _outside_message(label, outside, values, len(names), reduced=is_reduced)
            inspection.error("values of labels", message)
        histogram[values] += counts
    found = LabelCounts(folder, len(read), len(pairs), histogram, names, classes, ignored, is_reduced)
    inspect_ignored(found, inspection)
    return found


def reduces_zero_label(dataset: ConfigDict) -> bool:
    """Whether class i is written as i + 1 in label files, and 0 is ignored."""
    return bool(_argument(dataset, "reduce_zero_label", False))


def _open_pair(image: Path, label: Path, inspection: Inspection, reader: ImageReader | None) -> np.ndarray | None:
    """Open an image and its label, and return the label's (H, W) values if they are valid."""
    opened = inspect_image(image, inspection, reader=reader)
    try:
        open_image(label, "Label")
    except UserError as error:
        inspection.error("label files", str(error))
        return None
    with Image.open(label) as file:
        values = np.asarray(file)
        if file.mode == "P":
            inspection.note("palette labels", f"Label {label} has a palette; the numbers in the file are the classes.")
    fault = None
    if values.ndim != 2:
        fault = (
            f"Label {label} has {values.shape[-1]} channels: it must have one, whose pixels are class numbers, not "
            "colours."
        )
    elif values.max(initial=0) > 255 or values.min(initial=0) < 0:
        fault = f"Label {label} has values up to {values.max()}; labels are read as 8-bit numbers, 0 to 255."
    elif opened is not None and values.shape != (opened.height, opened.width):
        fault = (
            f"Label {label} is {values.shape[1]}x{values.shape[0]} pixels, but its image {image} is "
            f"{opened.width}x{opened.height}."
        )
    if fault is None:
        return values.astype(np.uint8)
    inspection.error("sizes and kinds of labels", fault)
    return None


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
