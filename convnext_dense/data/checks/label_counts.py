"""Reports classes that never occur in label images, and pixels that are ignored."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convnext_dense.config.datasets import quote
from convnext_dense.data.checks.inspection import ERROR, Inspection

_MOSTLY = 0.9  # of all pixels


class LabelCounts(NamedTuple):
    """Frequency of each value in the label images of a folder.

    Attributes:
        folder: The folder of the label images.
        num_read: Number of label images that were read.
        num_labels: Number of label images in the folder.
        histogram: Number of pixels of each value, (256,).
        names: Names of the classes that the values stand for, lowest value first.
        classes: Names of the classes that are used.
        ignored: The value of ignored pixels.
        is_reduced: Whether the first class is written as 1, and 0 is ignored as well.
    """

    folder: Path
    num_read: int
    num_labels: int
    histogram: np.ndarray
    names: Sequence[str]
    classes: Sequence[str]
    ignored: int
    is_reduced: bool

    @property
    def values(self) -> dict[str, int]:
        """The value of each class in the files."""
        return {name: value for value, name in enumerate(self.names, start=int(self.is_reduced))}

    @property
    def present(self) -> set[str]:
        """Names of the classes that have at least one pixel."""
        return {name for name, value in self.values.items() if value != self.ignored and self.histogram[value]}

    @property
    def num_void(self) -> int:
        """Number of pixels of the ignored value."""
        return int(self.histogram[self.ignored]) if 0 <= self.ignored < len(self.histogram) else 0

    @property
    def num_zeros(self) -> int:
        """Number of pixels of 0 where 0 is ignored as well."""
        return int(self.histogram[0]) if self.is_reduced and self.ignored != 0 else 0

    def share(self, num_pixels: int) -> str:
        """Format a number of pixels as a share of all pixels."""
        return f"{num_pixels / max(1, self.histogram.sum()):.1%}"


def inspect_ignored(counts: LabelCounts, inspection: Inspection) -> None:
    """Summarise a folder in one line, and report ignored values that may be meant as a class."""
    num_ignored, total = counts.num_void + counts.num_zeros, int(counts.histogram.sum())
    inspection.lines.append(
        f"{counts.folder}: {counts.num_labels} images; in {counts.num_read} labels read, {len(counts.present)} of "
        f"{len(counts.names)} classes occur and {counts.share(num_ignored)} of the pixels are ignored."
    )
    labels = f"{counts.num_read} labels read in {counts.folder}"
    if num_ignored == total:
        if not inspection.of(ERROR):
            inspection.error("ignored pixels", f"Every pixel of {labels} is ignored: nothing can be learnt.")
        return
    if num_ignored > _MOSTLY * total:
        values = f"{counts.ignored}{' and 0' if counts.num_zeros else ''}"
        inspection.warning(
            "ignored pixels", f"{counts.share(num_ignored)} of the pixels of {labels} are ignored (value {values})."
        )
    if counts.num_zeros and _looks_off_by_one(counts):
        number, highest = len(counts.names), np.flatnonzero(counts.histogram[: len(counts.names)]).max()
        inspection.warning(
            "numbers of classes",
            f"The labels of {counts.folder} look off by one: 0 to {highest} occur and {number} does not, but with "
            f"reduce_zero_label=True classes are written from 1 on, '{counts.names[0]}' first, and 0 "
            f"({counts.share(counts.num_zeros)} of the pixels) is ignored. Where 0 is a class, set "
            "reduce_zero_label=False, or use another layout than ADE20K's.",
        )


def _looks_off_by_one(counts: LabelCounts) -> bool:
    """Whether the highest class is missing where 0 is ignored, and at most one other is or most pixels are 0."""
    num_absent = len(counts.names) - len(counts.present)
    return counts.names[-1] not in counts.present and (
        num_absent <= 2 or 2 * counts.num_zeros > int(counts.histogram.sum())
    )


def inspect_classes(counts: Sequence[LabelCounts], loader: str, inspection: Inspection) -> None:
    """Report the classes that occur in no label of a split.

    Args:
        counts: Counts of all folders of the split.
        loader: ``'train'``, ``'val'`` or ``'test'``.
        inspection: Collects the findings.
    """
    present = set().union(*(each.present for each in counts))
    values = {name: each.values.get(name) for each in counts for name in each.classes}
    absent = [name for name in values if name not in present]
    if not absent:
        return
    num_read, num_labels = (sum(getattr(each, key) for each in counts) for key in ("num_read", "num_labels"))
    some = f"the {num_read}" if num_read == num_labels else f"{num_read} of the {num_labels}"
    text = (
        f"No pixel of {some} labels read in {', '.join(str(each.folder) for each in counts)} is of "
        f"{', '.join(f'{name!r} ({values[name]})' for name in absent[:10])}"
        f"{f' and {len(absent) - 10} more' if len(absent) > 10 else ''}."
    )
    void = sum(each.num_void for each in counts)
    is_binary = len(absent) == len(values) - 1 > 0
    if void and (is_binary or len(absent) == 1):
        shown = f"{counts[0].share(void)} of the pixels" if len(counts) == 1 else f"{void} pixels"
        text += (
            f" Value {counts[0].ignored} ({shown}) is ignored: if it stands for '{absent[-1]}', write "
            f"{values[absent[-1]]} instead."
        )
    if void and is_binary and loader == "train" and num_read == num_labels:
        inspection.error("classes without pixels", text)
    elif loader == "train" or (void and is_binary):
        inspection.warning("classes without pixels", text)
    else:
        inspection.note("classes without pixels", text, len(absent))


def inspect_unlearnt(train: Sequence[LabelCounts], others: Sequence[LabelCounts], inspection: Inspection) -> None:
    """Report classes of the validation or test data that no training label has, if all training labels were read."""
    if not train or any(each.num_read < each.num_labels for each in train):
        return
    learnt = set().union(*(each.present for each in train))
    for counts in others:
        unlearnt = [name for name in counts.classes if name in counts.present - learnt]
        if unlearnt:
            inspection.warning(
                "classes that are not learnt",
                f"{counts.folder} has pixels of {quote(unlearnt)}, and no training label has: they cannot be found.",
            )
