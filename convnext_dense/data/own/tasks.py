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
from convnext_dense.data.formats import convert, recognise
from convnext_dense.data.own.classification import (
    check_classification_data,
    splits_of_image_folder,
    use_image_folder,
)
from convnext_dense.data.own.detection import (
    forget_annotations,
    has_coco_files,
    splits_of_coco_folder,
    use_coco_folder,
)
from convnext_dense.data.own.segmentation import splits_of_segmentation_folder, use_segmentation_folder
from convnext_dense.errors import UserError


class Task(NamedTuple):
    """How a task's data is found and checked.

    Attributes:
        use_folder: Points a config at a folder. Takes the config, the folder, class names or None, the class names of a
            checkpoint or None, and ``splits``; returns the class names.
        find_splits: Returns which of 'train', 'val', 'test' a folder has.
        check: Checks the data of a config. Takes the config, which of 'train', 'val', 'test' will be read, and an
            ``Inspection``, which collects the findings.
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
    data_format: str | None = None,
    work_dir: str | os.PathLike = "work_dirs",
) -> list[str]:
    """Point a config at a folder of custom data and size its heads; see ``use_folder`` of its ``Task``.

    Args:
        cfg: Changed in place.
        folder: The folder of the data.
        classes: Class names in label order, for segmentation and classification.
        trained: Class names of the checkpoint to test.
        splits: Which split of the folder each loader of the config reads: all three loaders for training, only
            ``'test'`` for testing. Other splits need not exist.
        data_format: A key of ``formats.FORMATS``, whose annotations are converted; by default it is recognised.
        work_dir: Folder of the run, which keeps converted annotations; in a folder ``converted``.

    Returns:
        The class names, in label order.

    Raises:
        UserError: The folder does not have the layout of the task, or the model's task is unknown.
    """
    task = task_of(cfg)
    if task is None:
        raise UserError(
            f"--data needs a classifier or a model with box, mask or decode heads, not {cfg.model.get('type')}: "
            "name the data in the config instead."
        )
    if task == "detection":
        folder = _converted(Path(folder), data_format, work_dir)
    return TASKS[task].use_folder(cfg, folder, classes, trained, splits=splits)


def _converted(folder: Path, data_format: str | None, work_dir: str | os.PathLike) -> Path:
    """Convert a folder in a format of another tool; return any other folder as it is."""
    if not folder.is_dir() or (data_format is None and has_coco_files(folder)):
        return folder
    recognised = recognise(folder, data_format)
    if recognised is None:
        return folder
    out, line = convert(folder, *recognised, Path(work_dir, "converted"))
    print_log(line)
    return out


def use_whole_folder(
    cfg: Config,
    folder: str | os.PathLike,
    classes: Sequence[str] | None = None,
    *,
    data_format: str | None = None,
    work_dir: str | os.PathLike = "work_dirs",
) -> list[str]:
    """Point a config at all splits of a folder, and return the loaders that read them; see ``use_folder``.

    Without a test split the test loader reads val.
    """
    task = task_of(cfg)
    if task == "detection":
        folder = _converted(Path(folder), data_format, work_dir)
    there = TASKS[task].find_splits(folder) if task is not None else []
    splits = {name: name for name in there} or dict(TRAINING_SPLITS)
    if "val" in splits:
        splits.setdefault("test", "val")
    use_folder(cfg, folder, classes, splits=splits)
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
        forget_annotations()
    inspection.raise_if_wrong()
    return inspection.sentences()
