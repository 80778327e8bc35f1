"""Checks detection data before the first iteration: files, classes, numbers of classes, images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
from mmengine.config import Config, ConfigDict

from convnext_dense.data.coco_folder import LAYOUT, category_names, detection_heads, read_annotations
from convnext_dense.data.dataset_configs import class_names, leaf_datasets, quote

# Decoding all of COCO takes minutes; this many images, evenly spread, take about a second.
NUM_DECODED = 64


def check_detection_data(cfg: Config, loaders: Sequence[str]) -> list[str]:
    """Holds every COCO-format data set that is going to be read against the config.

    Args:
        cfg: The config of the run.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` are going to be used.

    Returns:
        One sentence per data set.

    Raises:
        ValueError: A file is missing or broken, or classes differ; the message names the file and the value.
    """
    lines = []
    checked = set()
    for loader in loaders:
        if cfg.get(f"{loader}_dataloader") is None:
            continue
        for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
            path = _annotation_path(dataset)
            if path is None or (path, loader == "train") in checked:
                continue
            checked.add((path, loader == "train"))
            annotations = _read(path, dataset)
            classes = _check_classes(annotations, path, dataset, cfg.model)
            _check_images(annotations, path, dataset)
            _check_masks(annotations, path, dataset)
            if loader == "train" and not annotations["annotations"]:
                raise ValueError(f"Annotation file {path} has no annotations: there is nothing to learn from.")
            in_file = len(annotations["categories"])
            of_all = f" of its {in_file}" if len(classes) < in_file else ""
            lines.append(
                f"{path}: {len(annotations['images'])} images, {len(annotations['annotations'])} annotations, "
                f"{len(classes)}{of_all} classes."
            )
    return lines


def _annotation_path(dataset: ConfigDict) -> Path | None:
    if "CocoDataset" not in str(dataset.get("type")) or not dataset.get("ann_file"):
        return None
    return Path(dataset.get("data_root") or "", dataset.ann_file)


def _read(path: Path, dataset: ConfigDict) -> dict[str, Any]:
    if not path.is_file():
        root = dataset.get("data_root") or path.parent
        raise ValueError(
            f"There is no data at {root}: {path} does not exist. Put COCO 2017 there (annotations/, train2017/, "
            f"val2017/), or point to a folder of your own with --data DIR. Expected:\n{LAYOUT}"
        )
    return read_annotations(path)


def _check_classes(annotations: dict, path: Path, dataset: ConfigDict, model: ConfigDict) -> list[str]:
    classes = class_names(dataset)
    if classes is None:
        raise ValueError(f"The data set of {path} has no class names: set metainfo=dict(classes=(...)).")
    in_file = category_names(annotations)
    if len(set(in_file)) != len(in_file):
        raise ValueError(f"{path} names a class twice: {quote(in_file)}.")
    absent = [name for name in classes if name not in in_file]
    if absent:
        raise ValueError(
            f"The config has classes that {path} does not have: {quote(absent)}. The file has {quote(in_file)}. "
            "Give the folder with --data DIR to take the classes from the file."
        )
    if [name for name in in_file if name in classes] != list(classes):
        raise ValueError(
            f"{path} lists its categories in another order ({quote(in_file)}) than the config's classes "
            f"({quote(classes)}), and labels follow the file's order: write both in the same order."
        )
    for head in detection_heads(model):
        if head.num_classes != len(classes):
            raise ValueError(
                f"The config's {head.get('type')} has num_classes={head.num_classes}, but there are {len(classes)} "
                f"classes ({quote(classes)}) for {path}."
            )
    return list(classes)


def _check_images(annotations: dict, path: Path, dataset: ConfigDict) -> None:
    folder = Path(dataset.get("data_root") or "", (dataset.get("data_prefix") or {}).get("img", ""))
    names = [image["file_name"] for image in annotations["images"]]
    # One listing per folder instead of one look-up per file, which takes minutes on network file systems.
    listings: dict[Path, set[str]] = {}
    missing = []
    for name in names:
        parent = (folder / name).parent
        if parent not in listings:
            listings[parent] = set(os.listdir(parent)) if parent.is_dir() else set()
        if os.path.basename(name) not in listings[parent]:
            missing.append(name)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} images of {path} are not in {folder}, such as {quote(missing, 3)}."
        )
    step = max(1, len(names) // NUM_DECODED)
    for image in annotations["images"][::step]:
        file = folder / image["file_name"]
        pixels = cv2.imread(str(file))
        if pixels is None:
            raise ValueError(f"Image {file} cannot be decoded: it is truncated or not an image.")


def _check_masks(annotations: dict, path: Path, dataset: ConfigDict) -> None:
    if not any(step.get("with_mask") for step in dataset.get("pipeline", ())):
        return
    for annotation in annotations["annotations"]:
        if not annotation.get("segmentation"):
            raise ValueError(
                f"Annotation {annotation.get('id')} of {path} has a box but no mask, and the config trains masks: "
                "add masks, or take the mask head and with_mask=True out of the config."
            )
