"""Lists the images of a folder in COCO's format, for a test whose annotations are withheld or do not exist."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnext_dense.data.image_size import read_size
from convnext_dense.data.opened_images import ARRAY_SUFFIX, IMAGE_SUFFIXES
from convnext_dense.errors import UserError


def list_images(folder: Path, *, are_turned: bool) -> list[dict[str, Any]]:
    """Return a COCO entry for each image of a folder and its sub-folders, with its relative path as id.

    Args:
        folder: The folder of the images.
        are_turned: Whether images are turned upright according to EXIF when they are read.

    Raises:
        UserError: There is no image, or one cannot be opened.
    """
    present = sorted(
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder, followlinks=True)
        for name in files
    )
    names = [name for name in present if name.lower().endswith(IMAGE_SUFFIXES)]
    names = names or [name for name in present if name.lower().endswith(ARRAY_SUFFIX)]
    if not names:
        raise UserError(f"There is no image in {folder}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    entries = []
    for name in names:
        height, width = read_size(folder / name, are_turned=are_turned)
        entries.append(dict(id=name, file_name=name, height=height, width=width))
    return entries


def write_list(content: dict[str, Any], name: str) -> Path:
    """Write a list of images to a temporary folder, which is removed when the process ends, and return the path."""
    folder = tempfile.mkdtemp(prefix="convnext_dense_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, f"{name}.json").resolve()
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def number_categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return COCO categories for class names, numbered from 1."""
    return [dict(id=number, name=name) for number, name in enumerate(names, start=1)]
