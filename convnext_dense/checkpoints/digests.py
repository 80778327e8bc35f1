"""The sha256 of files: computed, found in names, and compared with the published one."""

import contextlib
import hashlib
import io
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from convnext_dense.errors import UserError

# Names of torch.hub's and OpenMMLab's files end with the first digits of the sha256. A date has eight digits too.
_IN_NAME = re.compile(r"-(?!(?:19|20)\d{6}\.)([0-9a-f]{8,64})\.(?:pth|pt|bin|ckpt|safetensors|pth\.tar)$")
_SHOWN = 8


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    return _hash(path.open("rb", buffering=0))


def hash_in_background(path: Path) -> Future[str]:
    """Compute the sha256 of a file in a thread, because for an xlarge it takes longer than loading.

    The file is opened before this function returns, so it may be moved or deleted afterwards.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(_hash, path.open("rb", buffering=0))
    pool.shutdown(wait=False)
    return future


def find_digest(name: str) -> str | None:
    """Return the first digits of the sha256 that the name of a file ends with, such as ``net-d4731b3d.pth``."""
    match = _IN_NAME.search(name)
    return match[1] if match else None


def differs(found: str, published: str) -> str | None:
    """Return how a sha256 differs from the published one, which may be its first digits; None if it does not."""
    if found.startswith(published):
        return None
    return f"has the sha256 {found[:_SHOWN]}..., but {published[:_SHOWN]}... was published"


def check_digest(path: Path, published: str) -> None:
    """Compare a file with its sha256, or with the first digits of it, once for each size and time of the file.

    Raises:
        UserError: It is another file.
    """
    if _is_noted(path, published):
        return
    difference = differs(hash_file(path), published)
    if difference:
        raise UserError(
            f"Checkpoint {path} {difference}: it is damaged or another file, so delete it, and it is downloaded again."
        )
    note_digest(path, published)


def note_digest(path: Path, published: str) -> None:
    """Remember that a file has this sha256, as long as its size and time stay."""
    with contextlib.suppress(OSError):  # in a folder that is read-only it is hashed at every start
        _note(path).write_text(_state(path, published), encoding="ascii")


def _is_noted(path: Path, published: str) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _note(path).read_text(encoding="ascii") == _state(path, published)
    return False


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.checked")


def _state(path: Path, published: str) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {published}"


def _hash(file: io.FileIO) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 22))  # few large pieces, because each read waits for the GIL
    with file:
        while num_bytes := file.readinto(buffer):
            digest.update(buffer[:num_bytes])
    return digest.hexdigest()
