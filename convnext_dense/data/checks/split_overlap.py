"""Finds images that are in the training data and in the data that measures it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from convnext_dense.data.checks.inspection import Inspection


def inspect_overlap(files: Mapping[str, Sequence[Path]], inspection: Inspection) -> None:
    """Hold the images of ``'train'`` against those of ``'val'`` and ``'test'``: by path, and by content.

    As many of the latter are compared by content as the inspection opens, with the training images of equal size in
    bytes.

    Args:
        files: The images of each split.
        inspection: Takes what is found.
    """
    train = {file.resolve(): file for file in files.get("train", ()) if file.is_file()}
    by_size: dict[int, list[Path]] = {}
    for file in train:
        by_size.setdefault(file.stat().st_size, []).append(file)
    digests: dict[Path, bytes] = {}
    for split in ("val", "test"):
        others = [file for file in files.get(split, ()) if file.is_file()]
        for file in (file for file in others if file.resolve() in train):
            inspection.error(
                "images in two splits", f"Image {file} is in train and in {split}: what it measures is not unseen."
            )
        distinct = [file for file in others if file.resolve() not in train]
        for file in inspection.follow(inspection.pick(distinct), f"{split} images against train"):
            for twin in by_size.get(file.stat().st_size, ()):
                if _digest(file, digests) == _digest(twin, digests):
                    inspection.error(
                        "images in two splits",
                        f"Image {file} of {split} is the same as {train[twin]} of train: what it measures is not "
                        "unseen.",
                    )
                    break


def _digest(file: Path, known: dict[Path, bytes]) -> bytes:
    if file not in known:
        known[file] = hashlib.sha256(file.read_bytes()).digest()
    return known[file]
