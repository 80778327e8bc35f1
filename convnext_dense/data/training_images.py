"""What a config's training data is like: how many images there are, and how large their objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from convnext_dense.config.class_counts import task_of
from convnext_dense.config.datasets import loaded_datasets
from convnext_dense.data.checks.coco import coco_splits
from convnext_dense.data.checks.segmentation import find_pairs, label_splits
from convnext_dense.data.image_folder import find_samples
from convnext_dense.data.own.detection import read_annotations
from convnext_dense.data.unlabelled_images import nested_images


def training_images(cfg: Config, loader: str = "train") -> list[Path]:
    """List the images that a config trains on, or that another loader reads; none if it reads no files."""
    task = task_of(cfg)
    if task == "segmentation":
        return [image for split in label_splits(cfg, [loader]) for image, _ in find_pairs(split)]
    if task == "pretraining":
        return [
            path
            for _, dataset in loaded_datasets(cfg, [loader])
            if "root" in dataset
            for path in nested_images(dataset.root)
        ]
    if task == "classification":
        return [
            Path(path)
            for _, dataset in loaded_datasets(cfg, [loader])
            if "root" in dataset
            for path, _ in find_samples(Path(dataset.root), None, dataset.get("ann_file"))[0]
        ]
    return [folder / image["file_name"] for folder, content in _annotations(cfg, loader) for image in content["images"]]


def object_share(cfg: Config) -> float | None:
    """Return the median side of a training object, as a share of the long side of its image; None without objects.

    The side is the square root of the area of the box.
    """
    shares = []
    for _, content in _annotations(cfg):
        longest = {image["id"]: max(image["width"], image["height"]) for image in content["images"]}
        shares += [
            (annotation["bbox"][2] * annotation["bbox"][3]) ** 0.5 / longest[annotation["image_id"]]
            for annotation in content.get("annotations") or ()
            if not annotation.get("iscrowd") and annotation["image_id"] in longest and annotation.get("bbox")
        ]
    return float(np.median(shares)) if shares else None


def longest_side(cfg: Config) -> int | None:
    """Return the median long side of the training images in pixels, as their annotation file has it."""
    sides = [max(image["width"], image["height"]) for _, content in _annotations(cfg) for image in content["images"]]
    return int(np.median(sides)) if sides else None


def _annotations(cfg: Config, loader: str = "train") -> Iterator[tuple[Path, dict[str, Any]]]:
    for split in coco_splits(cfg, [loader]):
        yield split.folder, read_annotations(split.path, needs_objects=False)
