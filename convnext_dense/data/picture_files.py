"""Names and files of pictures: no two images write one file, and what could not be written is an error."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def picture_names(images: Iterable[str | os.PathLike], *, keeps_suffix: bool = False) -> dict[str, str]:
    """Return every image file a name of its own, to which an ending is added, for what is written about it.

    It is the file's name without its suffix. Where two would have one name, it is the name with the suffix, and where
    that does not tell them apart, with as many of the folders around it as do: ``a``, ``a.jpg``, ``one/a.jpg``. Names
    that differ in upper and lower case alone count as one, because some file systems see no difference.

    Args:
        images: Paths; one that is given twice is one image.
        keeps_suffix: Whether all names have the suffix.
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
        while _key(name) in taken:  # a whole path in other capitals, or decomposed
            number += 1
            name = f"{base}-{number}"
        taken.add(_key(name))
        names[parts] = name
    return {path: names[parts] for path, parts in paths.items()}


def _parts(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the folders and the name of an absolute path, its root left out."""
    return Path(os.path.abspath(path)).parts[1:]


def _name_at(parts: tuple[str, ...], level: int) -> str:
    return Path(parts[-1]).stem if level == 0 else "/".join(parts[-level:])


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _clashes(files: list[tuple[str, ...]], levels: dict[tuple[str, ...], int]) -> list[tuple[str, ...]]:
    """Return the files whose names are those of others too, and could be longer."""
    keys = {parts: _key(_name_at(parts, levels[parts])) for parts in files}
    counts = Counter(keys.values())
    return [parts for parts in files if counts[keys[parts]] > 1 and levels[parts] < len(parts)]
