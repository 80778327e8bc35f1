"""Names for the pictures that are written about images: no two images share a file."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def picture_names(images: Iterable[str | os.PathLike], *, keeps_suffix: bool = False) -> dict[str, str]:
    """Return a unique name, without an ending, for what is written about each image file.

    The name is that of the file without its suffix. Where two files would share a name, the suffix is kept, and where
    that is not enough, as many parent folders as needed are added: ``a``, ``a.jpg``, ``one/a.jpg``. Names that differ
    only in upper and lower case count as equal, because some file systems do not tell them apart.

    Args:
        images: Paths; a repeated path is one image.
        keeps_suffix: Whether all names keep the suffix.
    """
    paths = {os.fspath(image): _parts(image) for image in images}
    files = sorted(set(paths.values()))
    levels = dict.fromkeys(files, int(keeps_suffix))
    while clashes := _clashes(files, levels):
        for parts in clashes:
            levels[parts] += 1
    names, taken = {}, set()
    for parts in files:
        name = base = _name_at(parts, levels[parts])
        number = 1
        while _key(name) in taken:  # whole paths that differ only in case or in Unicode composition
            number += 1
            name = f"{base}-{number}"
        taken.add(_key(name))
        names[parts] = name
    return {path: names[parts] for path, parts in paths.items()}


def _parts(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the parts of the absolute path, without its root."""
    return Path(os.path.abspath(path)).parts[1:]


def _name_at(parts: tuple[str, ...], level: int) -> str:
    return Path(parts[-1]).stem if level == 0 else "/".join(parts[-level:])


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _clashes(files: list[tuple[str, ...]], levels: dict[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    """Return the files whose names clash with another's and can still be made longer."""
    keys = {parts: _key(_name_at(parts, levels[parts])) for parts in files}
    counts = Counter(keys.values())
    return [parts for parts in files if counts[keys[parts]] > 1 and levels[parts] < len(parts)]
