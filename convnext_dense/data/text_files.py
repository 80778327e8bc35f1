"""Reads text files in UTF-8, with or without a byte order mark, and in UTF-16 or UTF-32 with a mark.

Windows PowerShell, Notepad and .NET write such marks. The mm packages open annotation files and lists of images
themselves, so ``MarkedTextBackend`` replaces mmengine's backend for local files.
"""

import codecs
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend

from convnext_dense.errors import UserError

# The order matters: the mark of UTF-32 begins with that of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MARK = "\ufeff"
# Text formats that cannot declare their encoding themselves, as XML can.
_SUFFIXES = (".json", ".jsonl", ".odgt", ".txt", ".csv", ".tsv")
_WIDE = "seems to be in UTF-16 without a byte order mark. Save it as UTF-8."
_JSON_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


def read_text(path: str | os.PathLike, kind: str = "Text file") -> str:
    r"""Read a text file, with ``\n`` as line ending and without byte order marks.

    Args:
        path: The file.
        kind: What messages call the file.

    Raises:
        UserError: The file is in another encoding, or contains zero bytes.
    """
    content = Path(path).read_bytes()
    encoding = _encoding_of(content[:4]) or "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{kind} {path} {_encoding_fault(content, error)}") from error
    if "\0" in text:
        raise UserError(f"{kind} {path} {_zeros_fault(content, text)}")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.lstrip(_MARK).replace(f"\n{_MARK}", "\n")  # concatenated files have several marks


def read_lines(path: str | os.PathLike) -> list[str]:
    """Read a text file of names, one per line; blank lines and space around names are ignored."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_json(path: str | os.PathLike, kind: str = "JSON file") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        kind: What messages call the file.

    Raises:
        UserError: As for ``read_text``, or the file is empty, truncated, not JSON, or nested too deeply.
    """
    text = read_text(path, kind)
    if not text.strip():
        raise UserError(f"{kind} {path} is empty ({os.path.getsize(path)} bytes).")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{kind} {path} {_json_fault(text, error)}") from error
    except ValueError as error:  # a number with more digits than Python reads
        raise UserError(f"{kind} {path} has a number that cannot be read: {error}.") from error
    except RecursionError as error:
        raise UserError(f"{kind} {path} is nested too deeply.") from error


@register_backend("local", force=True, prefixes="")
class MarkedTextBackend(LocalBackend):
    """mmengine's backend for local files, extended to text files that begin with a byte order mark."""

    def get_text(self, filepath: str | Path, encoding: str = "utf-8") -> str:
        """Read text."""
        return read_text(filepath) if encoding.lower() in ("utf-8", "utf8") else super().get_text(filepath, encoding)

    @contextlib.contextmanager
    def get_local_path(self, filepath: str | Path) -> Iterator[str | Path]:
        """Yield the path; for a text with a mark, yield that of a temporary copy in plain UTF-8."""
        if not str(filepath).lower().endswith(_SUFFIXES) or not _has_mark(filepath):
            yield filepath
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, Path(filepath).name)
            copy.write_text(read_text(filepath), encoding="utf-8")
            yield str(copy)


def _encoding_of(start: bytes) -> str | None:
    return next((name for mark, name in _ENCODINGS.items() if start.startswith(mark)), None)


def _has_mark(path: str | Path) -> bool:
    try:
        with open(path, "rb") as file:
            return _encoding_of(file.read(4)) is not None
    except OSError:
        return False  # whoever opens the file reports what is wrong


def _encoding_fault(content: bytes, error: UnicodeDecodeError) -> str:
    encoding = error.encoding.upper()
    if not encoding.startswith("UTF-8"):
        return (
            f"begins with the byte order mark of {encoding[:6]} but is not in that encoding ({error.reason}). Save "
            "it as UTF-8."
        )
    if _is_wide(content):
        return _WIDE
    line = content.count(b"\n", 0, error.start) + 1
    before = content[content.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace").strip()
    place = f"line {line} has the byte 0x{content[error.start]:02X}{f' after {before[-20:]!r}' if before else ''}"
    if error.reason == "unexpected end of data":
        return f"is truncated or not in UTF-8: {place}, where it ends. Copy it again, or save it as UTF-8."
    return f"is not in UTF-8: {place}. Save it as UTF-8."


def _zeros_fault(content: bytes, text: str) -> str:
    if _is_wide(content):
        return _WIDE
    line = text.count("\n", 0, text.index("\0")) + 1
    return f"has a zero byte in line {line}: it is damaged or not a text file. Copy it again."


def _is_wide(content: bytes) -> bool:
    """Whether every other byte is mostly zero and the rest are not, as in Latin text in UTF-16."""
    zeros = sorted(content[first::2].count(0) / max(len(content[first::2]), 1) for first in (0, 1))
    return zeros[0] < 0.1 and zeros[1] > 0.5


def _json_fault(text: str, error: json.JSONDecodeError) -> str:
    following = text[error.pos + 1 :].lstrip()
    if text[error.pos : error.pos + 1] == "," and following[:1] in ("]", "}"):
        # Python 3.13 points at the comma, earlier versions at the bracket after it.
        error = json.JSONDecodeError(error.msg, text, len(text) - len(following))
    where = f"line {error.lineno}, column {error.colno}"
    rest = text[error.pos :].rstrip()
    if _is_cut(rest, error.msg):
        return f"is truncated: what begins at {where} does not end. Copy it again."
    if rest[0] in "]}" and text[: error.pos].rstrip().endswith(","):
        return f"is not JSON: there is a comma before the '{rest[0]}' at {where}. Remove the comma."
    return f"is not JSON: {error.msg.removesuffix(' at')} at {where}, before {rest[:20]!r}. Correct it there."


def _is_cut(rest: str, message: str) -> bool:
    """Whether the text from the fault to the end of the file is the start of an unfinished value."""
    return (
        not rest
        or message.startswith("Unterminated string")
        or any(word.startswith(rest) for word in _JSON_WORDS)
        or (message.startswith("Invalid \\") and len(rest) <= len("\\uXXXX"))
        or (message != "Extra data" and set(rest) <= set("+-.eE0123456789"))
    )
