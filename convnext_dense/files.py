"""Atomic file writing, and errors about unwritable files as one sentence."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convnext_dense.errors import UserError

_PARTIAL = ".partial"


@contextlib.contextmanager
def written_whole(path: str | os.PathLike, *, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; on success, rename the file to ``path``.

    If the block raises an error, or the process is killed at any moment, ``path`` is left unchanged. With ``flush`` the
    file also survives a power failure, for which its writer waits for the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")  # processes of one run may write the same file
    try:
        yield partial
        if flush:
            _flush(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if flush:
        with contextlib.suppress(OSError):  # not every file system can flush a folder
            _flush(path.parent)


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Remove the partial files that killed processes have left in a folder."""
    for partial in Path(folder).glob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def names_unwritable(path: str | os.PathLike) -> Iterator[None]:
    """Turn an ``OSError`` of the block, which writes ``path``, into a ``UserError``.

    Raises:
        UserError: The file cannot be written; the message says why.
    """
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise UserError(f"{path} cannot be written: {why}.") from error


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a JSON file, and its folder if need be.

    Raises:
        UserError: It cannot be written.
    """
    with names_unwritable(path), written_whole(path) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
