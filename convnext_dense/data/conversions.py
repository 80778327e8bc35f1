"""Keeps what is made from a folder of data, as long as the folder stays as it is."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from convnext_dense.files import names_unwritable, written_whole

_VERSION = 2  # raise it when the same files give other results
_SUMMARY = "summary.txt"
# Folders of runs, which are no data even if they are within the folder of the data.
OWN_FOLDERS = ("work_dirs", "converted")
# Describes converted label images and classified images: their classes, and where the images of each split are.
DESCRIPTION = "converted.json"


def keep(
    cache: Path, name: str, sources: Iterable[Path], settings: Any, write: Callable[[Path], str]
) -> tuple[Path, str]:
    """Make a folder, unless it was made before with the same settings, and no source has changed since.

    Args:
        cache: Folder of all such folders.
        name: First part of the folder's name.
        sources: Files and folders on which the result depends, by their names, sizes and times.
        settings: Whatever else it depends on; its ``repr`` must say all of it.
        write: Writes the result into the given folder and returns one line about it.

    Returns:
        The folder and the line.

    Raises:
        UserError: The folder cannot be made.
    """
    digest = hashlib.sha256(f"{_VERSION} {settings!r}\n".encode())
    for path in dict.fromkeys(os.path.abspath(source) for source in sources):
        for entry in _entries(Path(path)):
            digest.update(entry.encode())
    out = cache / f"{name}-{digest.hexdigest()[:16]}"
    summary = out / _SUMMARY
    with names_unwritable(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_suffix(".lock")):  # the other processes of a distributed run wait for the first one
        if not summary.is_file():
            line = write(out)
            with written_whole(summary) as partial:  # last: a folder without it is not whole
                partial.write_text(line, encoding="utf-8")
    return out, summary.read_text(encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any] | None:
    """Return what ``DESCRIPTION`` says about a converted folder; None for a folder that is not converted."""
    path = folder / DESCRIPTION
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _entries(path: Path) -> list[str]:
    if path.is_file():
        state = path.stat()
        return [f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n"]
    if not path.is_dir():
        return [f"{path}\0\n"]
    found, folders = [], [str(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir() and entry.name in OWN_FOLDERS:
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    state = entry.stat(follow_symlinks=os.path.exists(entry.path))  # a link may lead nowhere
                    found.append(f"{entry.path}\0{state.st_size}\0{state.st_mtime_ns}\n")
    return sorted(found)
