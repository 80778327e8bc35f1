"""Files that are there whole or not at all, and mmengine's storage backend that writes them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

ATOMIC = "convnext_dense.atomic"  # the backend's name in `backend_args`
_PARTIAL = ".partial"


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives the path of a file beside ``path`` to write to; at the end it is on disk and has taken the name ``path``.

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
    """Removes what processes that were killed while writing have left in a folder."""
    for partial in Path(folder).glob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


@register_backend(ATOMIC, force=True)
class AtomicBackend(LocalBackend):
    """mmengine's local files, written whole or not at all; a checkpoint hook uses it by ``backend_args``."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Writes bytes."""
        with written_whole(filepath) as partial:
            partial.write_bytes(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Writes text."""
        self.put(obj.encode(encoding), filepath)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
