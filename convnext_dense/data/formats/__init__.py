"""Formats of other tools, converted once and kept: objects to COCO's, labels to label images, classes to lists.

A format of objects is a module with a ``NAME`` and three functions: ``find_splits`` recognises a folder,
``source_files`` names what the annotations depend on, and ``read`` returns the objects. A format of label images has
``list_pairs`` and ``class_table`` instead of ``read``; one of classified images, ``list_samples``.
"""

from pathlib import Path
from types import ModuleType

from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.formats import (
    cityscapes,
    class_lists,
    coco,
    cvat,
    label_folders,
    labelme,
    via,
    voc,
    voc_segmentation,
    yolo,
)
from convnext_dense.errors import UserError

_OBJECTS: dict[str, ModuleType] = {
    "yolo": yolo,
    "cvat": cvat,
    "voc": voc,
    "via": via,
    "labelme": labelme,
    "coco": coco,
}
_LABELS: dict[str, ModuleType] = {
    "cityscapes": cityscapes,
    "voc-segmentation": voc_segmentation,
    "labels": label_folders,
}
# Formats by the task of a model, in the order in which they are tried. Label images are also painted from objects.
FORMATS: dict[str, dict[str, ModuleType]] = {
    "detection": _OBJECTS,
    "segmentation": {**_LABELS, **_OBJECTS},
    "classification": {"class-lists": class_lists},
}
FORMAT_NAMES = sorted({name for formats in FORMATS.values() for name in formats})


def recognise(data: DataFolder, task: str) -> tuple[ModuleType, list[str]] | None:
    """Return the format of a folder, and its splits; None where it has none of the task's ``FORMATS``.

    Raises:
        UserError: The folder does not have the format that is named.
    """
    formats, folder = FORMATS[task], Path(data.path)
    if data.format is not None and data.format not in formats:
        raise UserError(f"--data-format {data.format} is not for {task}: choose one of {', '.join(sorted(formats))}.")
    for key in formats if data.format is None else [data.format]:
        splits = formats[key].find_splits(folder)
        if splits is not None:
            return formats[key], splits
    if data.format is not None:
        raise UserError(
            f"--data-format {data.format}: {folder} has no files of the format {formats[data.format].NAME}."
        )
    return None
