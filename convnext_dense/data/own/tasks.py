"""What a config's model is for, and how its data is found and checked: one entry per task."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmengine.config import Config

from convnext_dense.config.class_counts import task_of
from convnext_dense.config.datasets import TRAINING_SPLITS
from convnext_dense.data.checks.coco import check_detection_data
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.checks.segmentation import check_segmentation_data
from convnext_dense.data.own.classification import (
    check_classification_data,
    splits_of_image_folder,
    use_image_folder,
)
from convnext_dense.data.own.detection import forget_annotations, splits_of_coco_folder, use_coco_folder
from convnext_dense.data.own.segmentation import splits_of_segmentation_folder, use_segmentation_folder
from convnext_dense.errors import UserError


class Task(NamedTuple):
    """How a task's data is found and checked.

    Attributes:
        use_folder: Points a config at a folder; given the config, the folder, class names and the names that a
            checkpoint was trained on, the last two or None, and ``splits``; returns the class names.
        find_splits: Gives those of 'train', 'val', 'test' that a folder has.
        check: Checks the data of a config; given the config, which of 'train', 'val', 'test' are going to be read, and
            what takes that which is found.
    """

    use_folder: Callable[..., list[str]]
    find_splits: Callable[[str | os.PathLike], list[str]]
    check: Callable[[Config, Sequence[str], Inspection], None]


TASKS = {
    "detection": Task(use_coco_folder, splits_of_coco_folder, check_detection_data),
    "classification": Task(use_image_folder, splits_of_image_folder, check_classification_data),
    "segmentation": Task(use_segmentation_folder, splits_of_segmentation_folder, check_segmentation_data),
}


def use_folder(
    cfg: Config,
    folder: str | os.PathLike,
    classes: Sequence[str] | None = None,
    trained: Sequence[str] | None = None,
    *,
    splits: Mapping[str, str] = TRAINING_SPLITS,
) -> list[str]:
    """Point a config at a folder of one's own data and size its heads, see the ``use_folder`` of its ``Task``.

    Args:
        cfg: Changed in place.
        folder: Of the data.
        classes: Class names by label, for segmentation and classification.
        trained: Class names of the checkpoint that is going to be tested.
        splits: Which split of the folder each loader of the config reads: for a training its three loaders, for a test
            ``'test'`` alone. Other splits need not be there.

    Returns:
        The class names, by label.

    Raises:
        UserError: The folder is not as the task expects it, or the model is of no task that is known.
    """
    task = task_of(cfg)
    if task is None:
        raise UserError(
            f"--data needs a classifier or a model with box, mask or decode heads, not {cfg.model.get('type')}: "
            "name the data in the config instead."
        )
    return TASKS[task].use_folder(cfg, folder, classes, trained, splits=splits)


def use_whole_folder(cfg: Config, folder: str | os.PathLike, classes: Sequence[str] | None = None) -> list[str]:
    """Point a config at all splits that a folder has, and return the loaders that read them; see ``use_folder``.

    Without a test split the test loader reads val.
    """
    task = task_of(cfg)
    there = TASKS[task].find_splits(folder) if task is not None else []
    splits = {name: name for name in there} or dict(TRAINING_SPLITS)
    if "val" in splits:
        splits.setdefault("test", "val")
    use_folder(cfg, folder, classes, splits=splits)
    return list(splits)


def inspect_data(cfg: Config, loaders: Sequence[str], inspection: Inspection) -> None:
    """Look at the data that a run is going to read, see the ``check`` of its ``Task``; what it finds is collected."""
    task = task_of(cfg)
    if task is not None:
        TASKS[task].check(cfg, loaders, inspection)


def check_data(cfg: Config, loaders: Sequence[str]) -> list[str]:
    """Do what ``inspect_data`` does, opening a sample of the images, and stop at an error.

    Args:
        cfg: The config of the run. Where its mask head has no masks to learn from, it is taken out.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` are going to be read.

    Returns:
        One sentence per data set, and the warnings.

    Raises:
        UserError: A file is missing or broken, or does not go with the config.
    """
    inspection = Inspection()
    try:
        inspect_data(cfg, loaders, inspection)
    finally:
        forget_annotations()
    inspection.raise_if_wrong()
    return inspection.sentences()
