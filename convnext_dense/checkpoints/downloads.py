"""Download a file into the cache of ``torch.hub``: continued if it broke off, checked, and once for all processes.

A file is downloaded to ``NAME.partial`` and renamed when it is whole. ``urllib`` does the work, as in ``torch.hub``, so
proxies and certificates are those that the environment names.
"""

import contextlib
import os
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlparse

import torch
from filelock import FileLock

from convnext_dense.checkpoints.digests import check_digest, differs, find_digest, hash_file, note_digest
from convnext_dense.errors import UserError, first_line
from convnext_dense.files import names_unwritable
from convnext_dense.terminal import Progress

# Until a server answers, with the look-up of its name: without a network, the error comes within ten seconds.
OPEN_SECONDS = 8.0
# Without a byte of a file.
READ_SECONDS = 60.0

_CHUNK_BYTES = 1 << 20
_PLAIN_SECONDS = 30.0  # between two lines about a download where there is no terminal
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416

Result = TypeVar("Result")


class _BrokenOffError(Exception):
    """A download ended before its file did; the text says where. It is no OSError, which a full disk raises."""


def cache_folder() -> Path:
    """Return the folder of ``torch.hub`` for downloaded files, which ``TORCH_HOME`` moves."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def cached_path(address: str) -> Path:
    """Return where the file of an address is, or will be.

    Raises:
        UserError: The address does not end with the name of a file.
    """
    try:
        name = unquote(urlparse(address).path).rpartition("/")[2]
    except ValueError as error:
        raise UserError(f"Checkpoint {address} is not an address: {first_line(error)}.") from error
    if name in ("", ".", ".."):
        raise UserError(f"Checkpoint {address} is an address without the name of a file at its end.")
    return cache_folder() / name


def download(address: str, *, digest: str | None = None, page: str | None = None) -> Path:
    """Return the local file of an address, and download it first if it is not in the cache.

    A file in the cache, also one that was put there by hand, is compared with its sha256 once, if that is known.

    Args:
        address: An ``http(s)://`` address.
        digest: The sha256 of the file or its first digits; by default those in its name.
        page: Where a licence has to be accepted before the file can be downloaded.

    Raises:
        UserError: The file cannot be downloaded or is another file; the message says where to put the right one.
    """
    path = cached_path(address)
    digest = digest or find_digest(path.name)
    if not path.is_file():
        with _locked(path):
            if not path.is_file():  # another process may have downloaded it by now
                _download(address, path, digest, page)
    if digest:
        check_digest(path, digest)
    return path


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """Return what ``function`` returns, or raise ``TimeoutError``: looking up a host's name has no timeout of its own.

    After the time it goes on in a thread that does not keep the program from ending.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return results[0]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time download a file."""
    with names_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(address: str, path: Path, digest: str | None, page: str | None) -> None:
    partial = path.with_name(f"{path.name}.partial")
    by_hand = f"Put the file at {path}, or name a local file."
    if page:
        by_hand = f"Accept its licence at {page}, and put the file at {path}."
    try:
        size = _receive(address, partial)
    except _BrokenOffError as error:
        raise UserError(
            f"Checkpoint {address} broke off {error}: run the command again, which continues {partial}."
        ) from error
    except (OSError, HTTPException) as error:
        # A URLError only wraps the error that says what happened.
        reason = error.reason if isinstance(error, URLError) and isinstance(error.reason, OSError) else error
        raise UserError(f"Checkpoint {address} could not be downloaded ({first_line(reason)}). {by_hand}") from error
    difference = differs(hash_file(partial), digest) if digest else None
    if not difference and size is not None and partial.stat().st_size != size:
        difference = f"has {partial.stat().st_size} bytes instead of {size}"
    if difference:
        partial.unlink()
        raise UserError(
            f"Checkpoint {address} {difference}: it was not kept, so run the command again, or download it yourself "
            "and name the local file, which is not compared."
        )
    with names_unwritable(path):
        os.replace(partial, path)
        _tag(partial).unlink(missing_ok=True)
    if digest:
        note_digest(path, digest)


def _receive(address: str, partial: Path) -> int | None:
    """Download a file or what is missing of it, and return the size of the whole if the server says it."""
    with _open(address, partial) as answer:
        start, size = _extent(answer, partial)
        progress = Progress(partial.stem, size, is_bytes=True, plain_seconds=_PLAIN_SECONDS)
        with names_unwritable(partial), partial.open("ab" if start else "wb") as file, progress:
            progress.skip(start)
            if not start:
                _tag(partial).write_text(answer.headers.get("ETag", ""), encoding="utf-8")
            while chunk := _read(answer, progress.done, size):
                file.write(chunk)
                progress.advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    return size


def _read(answer: HTTPResponse, received: int, size: int | None) -> bytes:
    """Return the next bytes of an answer; nothing at its end."""
    of_size = "" if size is None else f" of {size}"
    try:
        chunk = answer.read1(_CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise _BrokenOffError(f"after {received}{of_size} bytes ({first_line(error)})") from error
    if not chunk and size is not None and received < size:
        raise _BrokenOffError(f"after {received}{of_size} bytes")
    return chunk


def _open(address: str, partial: Path) -> HTTPResponse:
    """Open an address at the byte at which its partial file ends."""
    headers = {"User-Agent": "convnext_dense"}
    start = partial.stat().st_size if partial.is_file() else 0
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(address, headers=headers)
    try:
        answer = within(OPEN_SECONDS, lambda: urllib.request.urlopen(request, timeout=READ_SECONDS))
        if answer.status != _PARTIAL_CONTENT or _is_same_version(answer, partial):
            return answer
        answer.close()
    except HTTPError as error:
        if not start or error.code != _RANGE_NOT_SATISFIABLE:  # which means that it is longer than the file
            raise
    partial.unlink()
    return _open(address, partial)


def _is_same_version(answer: HTTPResponse, partial: Path) -> bool:
    """Whether an answer is of the version of the file on the server that a partial file is of, as far as is known."""
    noted = _tag(partial).read_text(encoding="utf-8") if _tag(partial).is_file() else ""
    return not noted or answer.headers.get("ETag", noted) == noted


def _extent(answer: HTTPResponse, partial: Path) -> tuple[int, int | None]:
    """Return the first byte that an answer holds, and the size of the whole file if it is known."""
    length = answer.headers.get("Content-Length")
    if answer.status != _PARTIAL_CONTENT:
        return 0, int(length) if length else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if not found or int(found[1]) != partial.stat().st_size:
        raise OSError(f"the server sent {answer.headers.get('Content-Range')} instead of the rest of the file")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _tag(partial: Path) -> Path:
    """Return the file that holds the tag of a partial file's version on the server."""
    return partial.with_name(f".{partial.name}.tag")
