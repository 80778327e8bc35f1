"""Holds out images to validate on, by a seed: stratified by class, with groups of images kept together."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from convnext_dense.config.datasets import quote
from convnext_dense.data.near_duplicates import group_images
from convnext_dense.errors import UserError

_EMPTY = "(no object)"  # images without objects are stratified as a class of their own


class Sample(NamedTuple):
    """An image and the classes of its objects, each as often as it occurs."""

    image: Path
    classes: Sequence[str | int]


def hold_out(samples: Sequence[Sample], share: float, seed: int) -> tuple[set[int], str]:
    """Choose the samples to validate on.

    Near-duplicates and frames of one video are on one side, so that the validation images are not known from training.

    Args:
        samples: All samples.
        share: Share of the samples to hold out, above 0 and below 1.
        seed: Another seed chooses other samples; the same one chooses the same, whatever the order of ``samples``.

    Returns:
        The positions of the held-out samples, and one line about them.

    Raises:
        UserError: The share is out of range, or the images form too few groups to be divided.
    """
    if not 0 < share < 1:
        raise UserError(f"--val-share {share:g} must be above 0 and below 1, such as 0.2.")
    groups: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(group_images([sample.image for sample in samples])):
        groups[number].append(place)
    held = {place for number in choose_groups(list(groups.values()), samples, share, seed) for place in groups[number]}
    if not held or len(held) == len(samples):
        raise UserError(
            f"--val-share {share:g}: {len(samples)} images form {len(groups)} groups of near-duplicates or of frames "
            "of one video, too few to hold out a part: make val from other images."
        )
    line = (
        f"Held out with --val-share {share:g} and seed {seed}: {len(held):,} of {len(samples):,} images, which form "
        f"{len(groups):,} groups of near-duplicates and frames of one video (the largest has "
        f"{max(map(len, groups.values())):,}); no group is divided."
    )
    seen = {name for place in held for name in samples[place].classes}
    missing = sorted({str(name) for sample in samples for name in sample.classes if name not in seen})
    return held, line + (f" Not in val, as they are in too few groups: {quote(missing)}." if missing else "")


def choose_groups(groups: Sequence[Sequence[int]], samples: Sequence[Sample], share: float, seed: int) -> list[int]:
    """Return the numbers of the groups to hold out, so that each class has about ``share`` of its objects there.

    Source: Sechidis et al., "On the Stratification of Multi-Label Data", ECML 2011, Algorithm 1 (iterative
    stratification).
    Differs: groups take the place of samples, and objects are counted.
    """
    counts = [Counter(_labels(samples[place] for place in group)) for group in groups]
    order = sorted(range(len(groups)), key=lambda number: min(str(samples[place].image) for place in groups[number]))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda number: -len(groups[number]))  # large groups first, while there is a choice
    totals: Counter[str | int] = Counter()
    for count in counts:
        totals.update(count)
    wanted: dict[str, dict[str | int, float]] = {
        side: {label: part * number for label, number in totals.items()}
        for side, part in (("train", 1 - share), ("val", share))
    }
    sizes = {"train": (1 - share) * len(samples), "val": share * len(samples)}
    having = defaultdict(set)
    for number in order:
        for label in counts[number]:
            having[label].add(number)
    held = []
    while having:
        rarest = min(having, key=lambda label: (len(having[label]), str(label)))
        members = having[rarest]
        for number in [number for number in order if number in members]:
            side = max(wanted, key=lambda side: (wanted[side][rarest], sizes[side]))
            for label, times in counts[number].items():
                wanted[side][label] -= times
            sizes[side] -= len(groups[number])
            if side == "val":
                held.append(number)
            for label in counts[number]:
                having[label].discard(number)
        having = defaultdict(set, {label: left for label, left in having.items() if left})
    return held


def _labels(samples: Iterable[Sample]) -> Iterable[str | int]:
    for sample in samples:
        yield from sample.classes or [_EMPTY]
