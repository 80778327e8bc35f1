"""What a config's model is for, and how its data is found and checked: one entry per task."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmengine.config import Config, ConfigDict

from convnext_dense.data.classification_folder import check_classification_data, is_classifier, use_image_folder
from convnext_dense.data.coco_check import check_detection_data
from convnext_dense.data.coco_folder import detection_heads, use_coco_folder
from convnext_dense.data.segmentation_check import check_segmentation_data
from convnext_dense.data.segmentation_folder import decode_heads, use_segmentation_folder


class Task(NamedTuple):
    """How a task's data is found and checked.

    Attributes:
        use_folder: Points a config at a folder; given the config, the folder, class names and the names that a
            checkpoint was trained on, the last two or None; returns the class names.
        check: Checks the data of a config; given the config and which of 'train', 'val', 'test' are going to be read;
            returns one sentence per data set.
    """

    use_folder: Callable[[Config, str | os.PathLike, Sequence[str] | None, Sequence[str] | None], list[str]]
    check: Callable[[Config, Sequence[str]], list[str]]


TASKS = {
    "detection": Task(use_coco_folder, check_detection_data),
    "classification": Task(use_image_folder, check_classification_data),
    "segmentation": Task(use_segmentation_folder, check_segmentation_data),
}


def task_of(model: ConfigDict) -> str | None:
    """Tells a key of ``TASKS`` from the heads in a model's config; None if they are of no kind that is known."""
    if any(detection_heads(model)):
        return "detection"
    if decode_heads(model):
        return "segmentation"
    if is_classifier(model):
        return "classification"
    return None


def use_folder(
    cfg: Config, folder: str | os.PathLike, classes: Sequence[str] | None = None, trained: Sequence[str] | None = None
) -> list[str]:
    """Points a config at a folder of one's own data and sizes its heads, see the ``use_folder`` of its ``Task``.

    Raises:
        ValueError: The folder is not as the task expects it, or the model is of no task that is known.
    """
    task = task_of(cfg.model)
    if task is None:
        raise ValueError(
            f"--data needs a classifier or a model with box, mask or decode heads, not {cfg.model.get('type')}: "
            "name the data in the config instead."
        )
    return TASKS[task].use_folder(cfg, folder, classes, trained)


def check_data(cfg: Config, loaders: Sequence[str]) -> list[str]:
    """Checks the data that a run is going to read, see the ``check`` of its ``Task``.

    Raises:
        ValueError: A file is missing or broken, or does not go with the config.
    """
    task = task_of(cfg.model)
    return TASKS[task].check(cfg, loaders) if task is not None else []
