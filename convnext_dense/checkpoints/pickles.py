"""Rewrite pickles of protocols 4 and 5 in protocol 2, the one that torch's safe loading reads.

A pickle is a program for a stack machine. Protocol 2 can express everything that the later protocols can, except a few
types that checkpoints do not use; instructions for these are copied as they are, and torch rejects them. Nothing is
executed here, and the rewritten file is loaded as safely as any other.

Source: https://peps.python.org/pep-3154/ and Python's ``pickletools``, which names the instructions.
"""

import io
import pickletools
import shutil
import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}
_PUT = {"MEMOIZE", "BINPUT", "LONG_BINPUT"}
_GET = {"BINGET", "LONG_BINGET"}
_LEGACY_PICKLES = (
    5  # magic number, version, machine, content, keys of the storages: torch/serialization.py, _legacy_save
)


def to_protocol_2(file: Path | io.BytesIO) -> Path | io.BytesIO:
    """Return a file of ``torch.save`` rewritten as with ``pickle_protocol=2``, or the file itself if it already is.

    Raises:
        UnpicklingError: An instruction is invalid.
    """
    if not needs_rewriting(file):
        return file
    rewritten = io.BytesIO()
    if is_archive_of_torch(file):
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(rewritten, "w") as out:
            record = pickle_name(archive.namelist())
            for name in archive.namelist():
                content = archive.read(name)
                out.writestr(name, _rewrite(io.BytesIO(content)) if name == record else content)
    else:
        data = io.BytesIO(file.read_bytes()) if isinstance(file, Path) else file
        data.seek(0)
        for _ in range(_LEGACY_PICKLES):
            rewritten.write(_rewrite(data))
        shutil.copyfileobj(data, rewritten)
    rewritten.seek(0)
    return rewritten


def needs_rewriting(file: Path | io.BytesIO) -> bool:
    """Return whether the pickle of a file has protocol 4 or later."""
    if is_archive_of_torch(file):
        with zipfile.ZipFile(file) as archive, archive.open(pickle_name(archive.namelist()) or "") as record:
            start = record.read(2)
    elif isinstance(file, Path):
        with file.open("rb") as opened:
            start = opened.read(2)
    else:
        start = file.getbuffer()[:2].tobytes()
    return start[:1] == b"\x80" and start[1:] > b"\x03"


def is_archive_of_torch(file: Path | io.BytesIO) -> bool:
    """Return whether a file is a zip file of ``torch.save``."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return pickle_name(archive.namelist()) is not None


def pickle_name(names: list[str]) -> str | None:
    """Return the name of the pickle in a zip file of ``torch.save``; None for any other zip file."""
    return next((name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")), None)


def _rewrite(stream: io.BytesIO) -> bytes:
    """Rewrite the pickle at the position of a stream and leave the stream right after it.

    Strings are held back until the next other instruction and are never memoized: protocol 4 takes the module and the
    name of a class from the stack, whereas protocol 2 has both in one instruction.
    """
    start = stream.tell()
    instructions: list[tuple[Any, Any, Any]] = list(pickletools.genops(stream))
    end = stream.tell()
    data = stream.getbuffer()[start:end]
    places = [place - start for _, _, place in instructions] + [end - start]
    out = bytearray()
    waiting: list[str] = []
    memorised: dict[int, str] = {}
    num_memorised = 0
    for number, (instruction, argument, _) in enumerate(instructions):
        name = instruction.name
        if name in _STRINGS:
            waiting.append(argument)
        elif name in _GET and argument in memorised:
            waiting.append(memorised[argument])
        elif name in _PUT and waiting:
            memorised[num_memorised if name == "MEMOIZE" else argument] = waiting[-1]
            num_memorised += 1
        elif name == "STACK_GLOBAL" and len(waiting) > 1:
            *waiting, module, attribute = waiting
            out += _strings(waiting) + f"c{_line(module)}{_line(attribute)}".encode()
            waiting = []
        elif name != "FRAME":
            out += _strings(waiting)
            waiting = []
            key = num_memorised if name == "MEMOIZE" else argument
            out += _instruction(name, key, data[places[number] : places[number + 1]].tobytes())
            num_memorised += name in _PUT
    return bytes(out)


def _instruction(name: str, argument: object, raw: bytes) -> bytes:
    if name == "PROTO":
        return b"\x80\x02"
    if name in _PUT:
        return b"r" + struct.pack("<I", argument)
    if name in _BYTES:  # as Python itself writes bytes in protocol 2
        assert isinstance(argument, bytes)
        return b"c_codecs\nencode\n" + _strings([argument.decode("latin-1"), "latin1"]) + b"\x86R"
    return raw


def _strings(texts: list[str]) -> bytes:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(b"X" + struct.pack("<I", len(text)) + text for text in encoded)


def _line(text: str) -> str:
    if "\n" in text:
        raise UnpicklingError(f"{text!r} is not the name of a class")
    return text + "\n"
