"""A folder of one's own data, and how it is to be read."""

import os
from collections.abc import Sequence
from typing import NamedTuple


class DataFolder(NamedTuple):
    """A folder of one's own data, and how it is to be read.

    Attributes:
        path: The folder.
        format: Format of its annotations, a key of ``formats.FORMATS``; None recognises it.
        classes: Class names by label, for segmentation and classification; None takes those of the folder.
        ignored_labels: Classes that are not learnt, by name or, in label images, by value. Their pixels count for
            nothing; their objects and images are left out.
        val_share: Share of the training images to validate on, for a folder without val; None for one with val.
        seed: Seed of the choice of these images.
        colors: Table of classes and colours of the label images; None takes that of the folder.
        overlaps: What is on top where label images are painted from objects: the ``'later'`` or the ``'smaller'`` one.
    """

    path: str
    format: str | None = None
    classes: Sequence[str] | None = None
    ignored_labels: Sequence[str] = ()
    val_share: float | None = None
    seed: int = 0
    colors: str | None = None
    overlaps: str = "later"

    @classmethod
    def of(cls, data: "str | os.PathLike | DataFolder") -> "DataFolder":
        """Return the description of a folder that is given by its path, or described already."""
        return data if isinstance(data, DataFolder) else cls(os.fspath(data))

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked for that changes what is in the folder's files."""
        return not (self.format or self.ignored_labels or self.val_share or self.colors)
