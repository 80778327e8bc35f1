"""The tasks of models, and how the data of each task is found and checked."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.logging import print_log

from convnext_dense.config.class_counts import task_of
from convnext_dense.config.datasets import TRAINING_SPLITS
from convnext_dense.data.checks.coco import check_detection_data
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.checks.segmentation import check_segmentation_data
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.own import classification, detection, pretraining, segmentation
from convnext_dense.data.own.converting import convert
from convnext_dense.errors import UserError


class Task(NamedTuple):
    """How a task's data is found and checked.

    Attributes:
        use_folder: Points a config at a folder. Takes the config, the folder, class names or None, the class names of a
            checkpoint or None, and ``splits``; returns the class names.
        is_plain: Returns whether a folder is read as it is; other formats are converted.
        find_splits: Returns which of 'train', 'val', 'test' a folder has.
        check: Checks the data of a config. Takes the config, which of 'train', 'val', 'test' will be read, and an
            ``Inspection``, which collects the findings.
    """

    use_folder: Callable[..., list[str]]
    is_plain: Callable[[Path], bool]
    find_splits: Callable[[str | os.PathLike], list[str]]
    check: Callable[[Config, Sequence[str], Inspection], None]


TASKS = {
    "detection": Task(
        detection.use_coco_folder, detection.is_plain, detection.splits_of_coco_folder, check_detection_data
    ),
    "classification": Task(
        classification.use_image_folder,
        classification.is_plain,
        classification.splits_of_image_folder,
        classification.check_classification_data,
    ),
    "segmentation": Task(
        segmentation.use_segmentation_folder,
        segmentation.is_plain,
        segmentation.splits_of_segmentation_folder,
        check_segmentation_data,
    ),
    "pretraining": Task(
        pretraining.use_images, pretraining.is_plain, pretraining.splits_of_images, pretraining.check_images
    ),
}


def use_folder(
    cfg: Config,
    data: str | os.PathLike | DataFolder,
    trained: Sequence[str] | None = None,
    *,
    splits: Mapping[str, str] = TRAINING_SPLITS,
    work_dir: str | os.PathLike = "work_dirs",
) -> list[str]:
    """Point a config at a folder of custom data and size its heads; see ``use_folder`` of its ``Task``.

    Args:
        cfg: Changed in place.
        data: The folder of the data, and how it is read.
        trained: Class names of the checkpoint to test.
        splits: Which split of the folder each loader of the config reads: all three loaders for training, only
            ``'test'`` for testing. Other splits need not exist.
        work_dir: Folder of the run, which keeps converted data in a folder ``converted``.

    Returns:
        The class names, in label order.

    Raises:
        UserError: The folder does not have the layout of the task, or the model's task is unknown.
    """
    task = _known_task(cfg)
    data = DataFolder.of(data)
    folder = _located(data, task, work_dir, trained)
    return TASKS[task].use_folder(cfg, folder, data.classes, trained, splits=splits)


def _known_task(cfg: Config) -> str:
    task = task_of(cfg)
    if task is None:
        raise UserError(
            "--data needs a classifier, a model that pre-trains without labels, or one with box, mask or decode heads, "
            f"not {cfg.model.get('type')}: name the data in the config instead."
        )
    return task


def _located(data: DataFolder, task: str, work_dir: str | os.PathLike, trained: Sequence[str] | None = None) -> Path:
    """Convert a folder that is not read as it is, and return the folder to read."""
    folder = Path(data.path)
    if not folder.is_dir() or (data.is_plain and TASKS[task].is_plain(folder)):
        return folder
    converted = convert(data, task, Path(work_dir, "converted"), trained=trained)
    if converted is None:
        return folder
    out, line = converted
    print_log(line)
    return out


def use_whole_folder(
    cfg: Config, data: str | os.PathLike | DataFolder, *, work_dir: str | os.PathLike = "work_dirs"
) -> list[str]:
    """Point a config at all splits of a folder, and return the loaders that read them; see ``use_folder``.

    Without a test split the test loader reads val.
    """
    task = _known_task(cfg)
    data = DataFolder.of(data)
    folder = _located(data, task, work_dir)
    splits = {name: name for name in TASKS[task].find_splits(folder)} or dict(TRAINING_SPLITS)
    if "val" in splits:
        splits.setdefault("test", "val")
    TASKS[task].use_folder(cfg, folder, data.classes, None, splits=splits)
    return list(splits)


def inspect_data(cfg: Config, loaders: Sequence[str], inspection: Inspection) -> None:
    """Check the data that a run will read, and collect the findings; see ``check`` of its ``Task``."""
    task = task_of(cfg)
    if task is not None:
        TASKS[task].check(cfg, loaders, inspection)


def check_data(cfg: Config, loaders: Sequence[str]) -> list[str]:
    """Run ``inspect_data`` on a sample of the images, and stop at an error.

    Args:
        cfg: The config of the run. A mask head without masks to learn from is removed.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` will be read.

    Returns:
        One sentence per data set, and the warnings.

    Raises:
        UserError: A file is missing or broken, or does not fit the config.
    """
    inspection = Inspection()
    try:
        inspect_data(cfg, loaders, inspection)
    finally:
        detection.forget_annotations()
    inspection.raise_if_wrong()
    return inspection.sentences()
