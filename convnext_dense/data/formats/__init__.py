"""Annotation formats of other tools, converted to COCO's once and kept.

A format is a module with a ``NAME`` and three functions: ``find_splits`` recognises a folder, ``source_files`` names
what the annotations depend on, and ``read`` returns the objects.
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from types import ModuleType

from convnext_dense.data.formats import cvat, labelme, via, voc, yolo
from convnext_dense.data.formats.annotations import Annotations
from convnext_dense.errors import UserError
from convnext_dense.files import written_whole

FORMATS: dict[str, ModuleType] = {"yolo": yolo, "cvat": cvat, "voc": voc, "via": via, "labelme": labelme}
_VERSION = 1  # raise it when the same files give other annotations


def recognise(folder: Path, name: str | None = None) -> tuple[str, list[str]] | None:
    """Return the format of a folder, and its splits; None where it has none of ``FORMATS``.

    Args:
        folder: The folder.
        name: The key of ``FORMATS`` to take it for; None recognises it.

    Raises:
        UserError: The folder does not have the format that is named.
    """
    for key in FORMATS if name is None else [name]:
        splits = FORMATS[key].find_splits(folder)
        if splits is not None:
            return key, splits
    if name is not None:
        raise UserError(f"--data-format {name}: {folder} has no files of the format {FORMATS[name].NAME}.")
    return None


def convert(folder: Path, key: str, splits: list[str], cache: Path) -> tuple[Path, str]:
    """Convert a folder to COCO annotation files, unless this was done before and nothing changed since.

    Args:
        folder: The folder, which is only read.
        key: The key of its format.
        splits: Its splits.
        cache: Folder of all conversions.

    Returns:
        The folder with ``instances_SPLIT.json``, and one line about what was converted and what was left out.

    Raises:
        UserError: A file is wrong; the message names the file and the place in it.
    """
    module = FORMATS[key]
    out = cache / f"{key}-{_state(folder, module)[:16]}"
    summary = out / "summary.txt"
    if not summary.is_file():
        found, names = module.read(folder, splits, out)
        if not names:
            raise UserError(f"{folder} has no objects: there is no class to learn.")
        for split, annotations in found.items():
            with written_whole(out / f"instances_{split}.json") as partial:
                partial.write_text(json.dumps(annotations.to_coco(names)), encoding="utf-8")
        with written_whole(summary) as partial:
            partial.write_text(_summary(module.NAME, found), encoding="utf-8")
    return out, f"{folder}: {summary.read_text(encoding='utf-8')} The converted annotations are in {out}."


def _summary(name: str, found: dict[str, Annotations]) -> str:
    images = sum(len(annotations.images) for annotations in found.values())
    objects = sum(len(annotations.objects) for annotations in found.values())
    counts = sum((annotations.left_out for annotations in found.values()), Counter())
    left_out = "".join(f", {number:,} {what}" for what, number in counts.items())
    return f"{name}: {len(found)} splits ({', '.join(found)}), {images:,} images, {objects:,} objects{left_out}."


def _state(folder: Path, module: ModuleType) -> str:
    """Return a digest of the names, sizes and times of all files on which the annotations depend."""
    digest = hashlib.sha256(f"{_VERSION} {folder.resolve()}".encode())
    for path in dict.fromkeys(module.source_files(folder)):
        for entry in _entries(path):
            digest.update(entry.encode())
    return digest.hexdigest()


def _entries(path: Path) -> list[str]:
    if path.is_file():
        state = path.stat()
        return [f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n"]
    if not path.is_dir():
        return []
    found, folders = [], [str(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    state = entry.stat()
                    found.append(f"{entry.path}\0{state.st_size}\0{state.st_mtime_ns}\n")
    return sorted(found)
