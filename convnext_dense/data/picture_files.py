"""Names for the pictures that are written about images: no two images share a file."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


def picture_names(
    images: Iterable[str | os.PathLike], *, keeps_suffix: bool = False, folders: Mapping[Path, int] | None = None
) -> dict[str, str]:
    """Return a unique name, without an ending, for what is written about each image file.

    The name is that of the file without its suffix. Where two files would share a name, the suffix is kept, and where
    that is not enough, as many parent folders as needed are added: ``a``, ``a.jpg``, ``one/a.jpg``. Names that differ
    only in upper and lower case count as equal, because some file systems do not tell them apart.

    Args:
        images: Paths; a repeated path is one image.
        keeps_suffix: Whether all names keep the suffix.
        folders: How many of their parent folders names have in any case; by default none.
    """
    paths = {os.fspath(image): _parts(image) for image in images}
    files = sorted(set(paths.values()))
    least = dict.fromkeys(files, 0) | {_parts(path): number for path, number in (folders or {}).items()}
    levels = {parts: _Level(least[parts], keeps_suffix) for parts in files}
    while clashes := _clashes(files, levels):
        for parts in clashes:
            levels[parts] = levels[parts].next
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


class _Level(NamedTuple):
    """How much of a path is in a name."""

    folders: int
    keeps_suffix: bool

    @property
    def next(self) -> "_Level":
        return _Level(self.folders + self.keeps_suffix, True)


def _name_at(parts: tuple[str, ...], level: _Level) -> str:
    file = parts[-1] if level.keeps_suffix else Path(parts[-1]).stem
    return "/".join((*parts[-1 - level.folders : -1], file))


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _clashes(files: list[tuple[str, ...]], levels: dict[tuple[str, ...], _Level]) -> list[tuple[str, ...]]:
    """Return the files whose names clash with another's and can still be made longer."""
    keys = {parts: _key(_name_at(parts, levels[parts])) for parts in files}
    counts = Counter(keys.values())
    return [
        parts
        for parts in files
        if counts[keys[parts]] > 1 and levels[parts].folders < len(parts) - 1 + (not levels[parts].keeps_suffix)
    ]
