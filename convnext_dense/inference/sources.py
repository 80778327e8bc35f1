"""What a model is to look at: files, folders, patterns, addresses, lists, videos and cameras.

Letters: H and W the height and width of a frame in pixels.
"""

import os
import re
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from convnext_dense.checkpoints.downloads import OPEN_SECONDS, READ_SECONDS, within
from convnext_dense.data.opened_images import IMAGE_SUFFIXES
from convnext_dense.data.prediction_files import find_files
from convnext_dense.errors import UserError, first_line

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
LIST_SUFFIX = ".txt"
STDIN = "-"
MAX_BYTES = 512 * 2**20  # of what is downloaded from an address
_CHUNK = 2**20
CAMERA = re.compile(r"camera:(\d+)$")
_STREAMS = ("rtsp://", "rtmp://", "udp://")
_ADDRESSES = ("http://", "https://")


class Source(NamedTuple):
    """One image or one video.

    Attributes:
        place: A path, an address (``http(s)://``, ``rtsp://``), or ``camera:0``.
        folders: How many of its parent folders lie in a folder that was named: the tree is mirrored in what is written.
    """

    place: str
    folders: int = 0

    @property
    def is_address(self) -> bool:
        """Whether it has to be downloaded first."""
        return self.place.startswith(_ADDRESSES)

    @property
    def is_live(self) -> bool:
        """Whether it is a camera or a stream, which has no end."""
        return bool(CAMERA.match(self.place)) or self.place.startswith(_STREAMS)

    @property
    def is_video(self) -> bool:
        """Whether it has frames."""
        path = urlsplit(self.place).path if self.is_address else self.place
        return self.is_live or path.lower().endswith(VIDEO_SUFFIXES)

    @property
    def path(self) -> Path:
        """A path that stands for it in the names of what is written: its own, or one made of its address."""
        if self.is_live:
            return Path(re.sub(r"\W+", "_", self.place))
        if not self.is_address:
            return Path(self.place)
        parts = urlsplit(self.place)
        return Path(re.sub(r"[^\w./-]+", "_", unquote(parts.netloc + parts.path)).strip("/"))


def find_sources(names: Iterable[str | os.PathLike], *, recursive: bool = False) -> list[Source]:
    """Find everything that names stand for, each once, in their order.

    Args:
        names: Files, folders (their images and videos in sorted order), patterns such as ``a/**/*.jpg``,
            ``http(s)://`` addresses, ``rtsp://`` streams, ``camera:0``, text files with such names in lines (relative
            to the text file if they are not there otherwise), or ``-`` for such lines from standard input.
        recursive: Whether images in all subfolders are found, too.

    Raises:
        UserError: There is no such folder, a pattern matches nothing, or a folder or a list is empty.
    """
    found: dict[str, Source] = {}
    for name in (os.fspath(name) for name in names):
        if name == STDIN or name.lower().endswith(LIST_SUFFIX):
            sources = find_sources(_lines(name), recursive=recursive)
        elif name.startswith((*_ADDRESSES, *_STREAMS)) or CAMERA.match(name) or _is_absent(name):
            sources = [Source(name)]
        else:
            files = find_files([name], recursive=recursive, also=VIDEO_SUFFIXES)
            sources = [Source(os.fspath(path), folders) for path, folders in files.items()]
        for source in sources:
            is_file = not source.is_address and not source.is_live
            found.setdefault(os.path.abspath(source.place) if is_file else source.place, source)
    return list(found.values())


def _is_absent(name: str) -> bool:
    """Whether a name is that of an image or a video that is not there: it is said when its turn comes."""
    is_pattern = any(sign in name for sign in "*?[")
    return name.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)) and not is_pattern and not Path(name).exists()


def _lines(name: str) -> Sequence[str]:
    """Return the names that a list gives; empty lines and those after ``#`` count for nothing."""
    try:
        text = sys.stdin.read() if name == STDIN else Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"List {name} cannot be read: {first_line(error)}.") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{'Standard input' if name == STDIN else f'List {name}'} names no image: give one per line.")
    if name == STDIN:
        return lines
    folder = Path(name).parent
    return [
        os.fspath(folder / line) if not Path(line).exists() and (folder / line).exists() else line for line in lines
    ]


def download(address: str, folder: str | os.PathLike) -> Path:
    """Download an image or a video into a folder, and return the file.

    Raises:
        UserError: It cannot be downloaded, or is larger than ``MAX_BYTES``.
    """
    path = Path(folder) / (Source(address).path.name[-200:] or "image")
    request = urllib.request.Request(address, headers={"User-Agent": "convnext_dense"})
    too_large = f"{address} has more than {MAX_BYTES // 2**20} MB: download it yourself, and name the file."
    try:
        answering = within(OPEN_SECONDS, lambda: urllib.request.urlopen(request, timeout=READ_SECONDS))
        with answering as answer, path.open("wb") as file:
            if int(answer.headers.get("Content-Length") or 0) > MAX_BYTES:
                raise UserError(too_large)
            size = 0
            while chunk := answer.read(_CHUNK):
                size += len(chunk)
                if size > MAX_BYTES:
                    raise UserError(too_large)
                file.write(chunk)
            expected = answer.headers.get("Content-Length")
    except UserError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{address} could not be downloaded ({first_line(error)}).") from error
    if expected is not None and size != int(expected):
        raise UserError(f"{address} broke off after {size} of {expected} bytes.")
    return path
