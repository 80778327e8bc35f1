"""All images of a folder and its sub-folders, without classes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convnext_dense.data.image_folder import ImageFolder, is_hidden
from convnext_dense.data.opened_images import IMAGE_SUFFIXES
from convnext_dense.errors import UserError
from convnext_dense.registry import DATASETS


@DATASETS.register_module()
class UnlabelledImages(ImageFolder):
    """Map-style data set of the images below a folder, at any depth.

    Items have ``inputs``, and ``seeds`` for what a model draws at random about the image: it depends on the seed of the
    run, the epoch and the image, and on no process.

    Args:
        root: The folder.
        transform: Arguments of timm's ``create_transform``.
        max_corrupt_rate: See ``ImageFolder``.

    Raises:
        UserError: The folder does not exist, or has no image.
    """

    def __init__(self, root: str | os.PathLike, transform: Mapping[str, Any], *, max_corrupt_rate: float = 0.0) -> None:
        self._prepare([(str(path), None) for path in nested_images(root)], transform, max_corrupt_rate)
        self.metainfo = {}


def nested_images(root: str | os.PathLike) -> list[Path]:
    """List the images below a folder, at any depth, in the order of their paths; hidden folders are left out.

    Raises:
        UserError: The folder does not exist, or has no image.
    """
    if not Path(root).is_dir():
        raise UserError(f"Image folder {root} does not exist.")
    found = []
    for parent, folders, files in os.walk(os.fspath(root), followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [
            Path(parent, name) for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
    if not found:
        raise UserError(f"There is no image in {root}: expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return sorted(found)
