"""Measures the mean and the deviation of every channel of a training set, once per state of its files.

Letters: H, W are an image's height and width in pixels, C is its number of channels.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convnext_dense.data.checks.inspection import evenly_spread
from convnext_dense.errors import UserError
from convnext_dense.files import written_whole

MAX_IMAGES = 2000  # evenly spread; of 512 x 512 pixels and four channels they take about half a minute
_VERSION = 1  # raise it when the same files give other numbers
_DIGITS = 7  # of float32


class Statistics(NamedTuple):
    """The values of a training set, per channel.

    Attributes:
        mean: The mean.
        std: The standard deviation of the whole population, as in ``numpy.std``.
        low: The smallest value.
        high: The greatest value.
        num_images: How many images were read.
    """

    mean: list[float]
    std: list[float]
    low: list[float]
    high: list[float]
    num_images: int


def measure(images: Iterable[np.ndarray]) -> Statistics:
    """Go through (H, W, C) images once, in float64.

    Source: the pairwise update of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979, which stays exact where the mean is large beside the deviation.
    """
    count, num_images = 0, 0
    mean = squares = low = high = np.zeros(1)
    for image in images:
        pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
        here, size = pixels.mean(0), len(pixels)
        squares_here = np.square(pixels - here).sum(0)
        if not count:
            mean, squares = here, squares_here
            low, high = pixels.min(0), pixels.max(0)
        else:
            difference = here - mean
            mean = mean + difference * (size / (count + size))
            squares = squares + squares_here + np.square(difference) * (count * size / (count + size))
            low, high = np.minimum(low, pixels.min(0)), np.maximum(high, pixels.max(0))
        count += size
        num_images += 1
    std = np.sqrt(squares / max(count, 1))
    return Statistics(_rounded(mean), _rounded(std), _rounded(low), _rounded(high), num_images)


def measure_files(
    files: Sequence[Path], read: Callable[[Path], np.ndarray], folder: Path, *, channels: int
) -> Statistics:
    """Measure up to ``MAX_IMAGES`` of the files, unless this was done before and none of them changed since.

    Args:
        files: The images.
        read: Reads one as (H, W, C).
        folder: Keeps the results, one small file per state of the images; it may be read-only.
        channels: C.

    Raises:
        UserError: An image cannot be read, or there is none.
    """
    picked = evenly_spread(files, MAX_IMAGES)
    if not picked:
        raise UserError("There is no training image to measure the mean and the deviation on.")
    digest = hashlib.sha256(f"{_VERSION} {channels} {len(files)}".encode())
    for file in picked:
        state = file.stat() if file.is_file() else None  # a missing file is reported where it is read
        digest.update(f"{file}\0{state and (state.st_size, state.st_mtime_ns)}\n".encode())
    kept = folder / f"statistics-{digest.hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # not there, or broken: measure again
        return Statistics(**json.loads(kept.read_text(encoding="utf-8")))
    found = measure(map(read, picked))
    with contextlib.suppress(OSError), written_whole(kept) as partial:  # other processes may write the same
        partial.write_text(json.dumps(found._asdict()), encoding="utf-8")
    return found


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
