"""Finds images that are both in the training data and in the validation or test data."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from convnext_dense.data.checks.inspection import Inspection


def inspect_overlap(files: Mapping[str, Sequence[Path]], inspection: Inspection) -> None:
    """Compare the images of ``'train'`` with those of ``'val'`` and ``'test'``, by path and by content.

    As many of the latter as the inspection opens are compared by content with the training images of the same size in
    bytes.

    Args:
        files: The images of each split.
        inspection: Collects the findings.
    """
    train = {file.resolve(): file for file in files.get("train", ()) if file.is_file()}
    by_size: dict[int, list[Path]] = {}
    for file in train:
        by_size.setdefault(file.stat().st_size, []).append(file)
    digests: dict[Path, bytes] = {}
    for split in ("val", "test"):
        others = [file for file in files.get(split, ()) if file.is_file()]
        for file in (file for file in others if file.resolve() in train):
            inspection.error("images in two splits", f"Image {file} is in train and in {split}: it is not unseen data.")
        distinct = [file for file in others if file.resolve() not in train]
        for file in inspection.follow(inspection.pick(distinct), f"{split} images against train"):
            for twin in by_size.get(file.stat().st_size, ()):
                if _digest(file, digests) == _digest(twin, digests):
                    inspection.error(
                        "images in two splits",
                        f"Image {file} of {split} is the same as {train[twin]} of train: it is not unseen data.",
                    )
                    break


def _digest(file: Path, known: dict[Path, bytes]) -> bytes:
    if file not in known:
        known[file] = hashlib.sha256(file.read_bytes()).digest()
    return known[file]
