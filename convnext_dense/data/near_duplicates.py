"""Groups images that show nearly the same: copies, edited versions, and frames of one video."""

import contextlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convnext_dense.data.band_files import read_bands
from convnext_dense.data.corrupt_images import UNREADABLE
from convnext_dense.errors import UserError
from convnext_dense.terminal import track
from convnext_dense.visualization import to_picture

# Of 64 bits of a perceptual hash, so many differ at most between versions of an image; between any two images it is 32
# on average. Neighbours in a numbered series may differ more.
_VERSION_BITS = 6
_NEIGHBOUR_BITS = 14
_NUM_BANDS = _VERSION_BITS + 1  # at least one of them is equal where at most _VERSION_BITS bits differ

_FRAME = re.compile(r"(^|[\W_])(frame|frm)[\W_]?\d+", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?!.*\d)")
_ROBOFLOW = re.compile(r"\.rf\.[0-9A-Za-z]+$")


def group_images(images: Sequence[Path]) -> list[int]:
    """Return the number of each image's group.

    In one group are images whose perceptual hashes nearly agree; versions of one image in an export of Roboflow;
    frames of a video by their names (``x_frame_12``); and neighbours in a numbered series that look alike.

    Raises:
        UserError: The library for perceptual hashes is not installed.
    """
    hashes = _hashes(images)
    groups = _Groups(len(images))
    readable = np.array([place for place, found in enumerate(hashes) if found is not None], np.int64)
    for first, second in _similar(np.array([hashes[place] for place in readable], np.uint64)):
        groups.join(int(readable[first]), int(readable[second]))
    series = defaultdict(list)
    versions, videos = defaultdict(list), defaultdict(list)
    for place, image in enumerate(images):
        stem = image.stem
        if _ROBOFLOW.search(stem):
            versions[image.parent, _ROBOFLOW.sub("", stem)].append(place)
        elif (match := _FRAME.search(stem)) is not None:
            videos[image.parent, stem[: match.start()]].append(place)
        if (number := _NUMBER.search(stem)) is not None:
            key = (image.parent, stem[: number.start()], stem[number.end() :])
            series[key].append((int(number.group()), place))
    for places in [*versions.values(), *(videos.values() if len(videos) > 1 else [])]:
        for place in places[1:]:
            groups.join(places[0], place)
    for members in series.values():
        members.sort()
        for (_, first), (_, second) in itertools.pairwise(members):
            one, other = hashes[first], hashes[second]
            if one is not None and other is not None and (one ^ other).bit_count() <= _NEIGHBOUR_BITS:
                groups.join(first, second)
    return [groups.root(place) for place in range(len(images))]


class _Groups:
    """Disjoint sets of places in a list."""

    def __init__(self, number: int) -> None:
        self._parents = list(range(number))

    def root(self, place: int) -> int:
        while self._parents[place] != place:
            self._parents[place] = self._parents[self._parents[place]]
            place = self._parents[place]
        return place

    def join(self, first: int, second: int) -> None:
        first, second = sorted((self.root(first), self.root(second)))
        self._parents[second] = first


def _hashes(images: Sequence[Path]) -> list[int | None]:
    """Return the perceptual hash of each image, 64 bits; None for one that cannot be read, which the check names."""
    try:
        import imagehash
    except ImportError as error:
        raise UserError(
            "--val-share compares images by perceptual hashes: install them with pip install 'convnext-dense[data]'."
        ) from error
    hashes: list[int | None] = []
    for path in track(images, "comparing images"):
        grey = _grey(path)
        bits = None if grey is None else imagehash.phash(grey).hash.flatten()
        hashes.append(None if bits is None else int.from_bytes(np.packbits(bits).tobytes(), "big"))
    return hashes


def _grey(path: Path) -> Image.Image | None:
    with contextlib.suppress(*UNREADABLE), Image.open(path) as file:
        if file.mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
            file.draft("L", (64, 64))  # JPEG is decoded at an eighth of its size where that is enough
            return file.convert("L")
    with contextlib.suppress(UserError):  # more bits or channels than Pillow's
        return Image.fromarray(to_picture(read_bands(path))).convert("L")
    return None


def _similar(hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of places whose hashes differ in at most ``_VERSION_BITS`` bits, at least enough to join them all."""
    distinct, places, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    for place, number in enumerate(inverse.tolist()):
        if places[number] != place:
            yield int(places[number]), place
    width = -(-64 // _NUM_BANDS)
    for band in range(_NUM_BANDS):
        keys = (distinct >> np.uint64(band * width)) & np.uint64(2**width - 1)
        order = np.argsort(keys, kind="stable")
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        for members in np.split(order, borders):
            for position, first in enumerate(members[:-1].tolist()):
                others = members[position + 1 :]
                for second in others[_bits(distinct[others] ^ distinct[first]) <= _VERSION_BITS].tolist():
                    yield int(places[first]), int(places[second])


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Return how many bits of each number are set."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(numbers)
    return np.unpackbits(numbers[:, None].view(np.uint8), axis=1).sum(1)
