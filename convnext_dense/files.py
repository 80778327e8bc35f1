"""Files that are written whole or not at all, and what stopped one from being written, in a sentence."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from convnext_dense.errors import UserError

_PARTIAL = ".partial"


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Return the path of a file beside ``path`` to write to; at the end it is on disk and has taken the name ``path``.

    After an error, or if the process is killed at any moment, ``path`` is what it was before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # not every file system can flush a folder
        _flush(path.parent)


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Remove what processes that were killed while writing have left in a folder."""
    for partial in Path(folder).glob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def names_unwritable(path: str | os.PathLike) -> Iterator[None]:
    """Run what writes a file.

    Raises:
        UserError: It cannot be written; the message says why.
    """
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise UserError(f"{path} cannot be written: {why}.") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
