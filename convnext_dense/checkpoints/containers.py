"""Archives that hold one checkpoint, and files that hold none.

Archives are unpacked in memory. Nothing is written to disk, so the names in an archive can do no harm.
"""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from convnext_dense.checkpoints.pickles import pickle_name
from convnext_dense.errors import UserError

# An archive within an archive is the most that is unpacked.
_MAX_DEPTH = 3
# Weights hardly compress. An archive that grows by more than this factor is taken for a decompression bomb.
_MAX_GROWTH = 20
_FREE_BYTES = 64 << 20
_ENDINGS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar", ".npz")
_COMPRESSED: Mapping[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_OTHER_ARCHIVES = {b"7z\xbc\xaf": "7z", b"Rar!": "rar", b"\x28\xb5\x2f\xfd": "zstd"}
_LEGACY_TAR = {"sys_info", "pickle", "storages", "tensors"}  # torch.save of 2016

_MADE_FROM_CHECKPOINTS = {
    ".onnx": "an ONNX model",
    ".engine": "a TensorRT engine",
    ".tflite": "a TensorFlow Lite model",
    ".mlmodel": "a Core ML model",
}

Packed = Path | io.BytesIO


def unpack(path: Path) -> tuple[str, Packed]:
    """Return the name and the content of the one checkpoint in an archive; any other file is returned as it is.

    Args:
        path: A ``.zip``, ``.tar``, ``.tar.gz``, ``.gz``, ``.bz2`` or ``.xz`` file, recognised by its content, or any
            other file.

    Raises:
        UserError: The file is empty, a text, a web page or a model that was made from a checkpoint; or the archive does
            not hold exactly one checkpoint, or its content is far larger than the archive.
    """
    if path.suffix in _MADE_FROM_CHECKPOINTS:
        raise UserError(
            f"Checkpoint {path} is {_MADE_FROM_CHECKPOINTS[path.suffix]}: name the .pth or .safetensors file that it "
            "was made from."
        )
    name, file = path.name, cast("Packed", path)
    _check_first_bytes(file, path)
    for _ in range(_MAX_DEPTH):
        unpacked = _unpack_once(name, file, path)
        if unpacked is None:
            return name, file
        name, file = unpacked
        _check_first_bytes(file, path)
    raise UserError(f"Checkpoint {path} is packed more than {_MAX_DEPTH - 1} times: unpack it and name the file in it.")


def _check_first_bytes(file: Packed, path: Path) -> None:
    start = _start(file, 256).lstrip()
    if not start:
        raise UserError(f"Checkpoint {path} is empty. Download or copy it again.")
    if start[:1] == b"<":
        raise UserError(f"Checkpoint {path} is a web page, not weights: the download was answered by an error page.")
    if start.isascii() and start.decode("ascii").replace("\n", "").replace("\t", "").isprintable():
        raise UserError(
            f"Checkpoint {path} is a text file, not weights; it begins with {start[:30].decode()!r}. A git-lfs pointer "
            "looks like this if the file was not fetched. Download the file itself."
        )


def _unpack_once(name: str, file: Packed, path: Path) -> tuple[str, Packed] | None:
    start = _start(file)
    for magic, kind in _OTHER_ARCHIVES.items():
        if start.startswith(magic):
            raise UserError(f"Checkpoint {path} is a {kind} archive: unpack it and name the file in it.")
    if isinstance(file, io.BytesIO):
        file.seek(0)
    # Tar comes first, because is_zipfile also accepts another file with a zip file at its end.
    unpacked = _unpack_tar(file, path) if tarfile.is_tarfile(file) else None
    if unpacked is not None:
        return unpacked
    if zipfile.is_zipfile(file):
        return _unpack_zip(file, path)
    for magic, opener in _COMPRESSED.items():
        if start.startswith(magic):
            if isinstance(file, io.BytesIO):
                file.seek(0)
            with opener(file) as stream:
                return PurePosixPath(name).stem, _read(stream, file, path)
    return None


def _unpack_zip(file: Packed, path: Path) -> tuple[str, io.BytesIO] | None:
    with zipfile.ZipFile(file) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        if any(re.fullmatch(r"[^/]+/(constants\.pkl|archive_format)", name) for name in names):
            raise UserError(
                f"Checkpoint {path} is a compiled program (TorchScript or torch.export), not weights: load it with "
                "torch.jit.load or torch.export.load where it was written, and save its state dict."
            )
        if pickle_name(names) or (names and all(name.endswith(".npy") for name in names)):
            return None
        name = _choose(names, path)
        with archive.open(name) as stream:
            return PurePosixPath(name).name, _read(stream, file, path)


def _unpack_tar(file: Packed, path: Path) -> tuple[str, io.BytesIO] | None:
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with tarfile.open(**({"name": file} if isinstance(file, Path) else {"fileobj": file})) as archive:  # type: ignore[call-overload]
        members = {member.name: member for member in archive if member.isfile()}
        if not members:  # tarfile takes any file that begins with zeros for an empty archive
            return None
        if members.keys() >= _LEGACY_TAR:
            raise UserError(
                f"Checkpoint {path} was written by torch 0.1 and cannot be read safely: load it where it was written, "
                "and save it again."
            )
        name = _choose(members, path)
        stream = archive.extractfile(members[name])
        assert stream is not None  # the member is a file
        return PurePosixPath(name).name, _read(stream, file, path)


def _choose(names: Iterable[str], archive: Path) -> str:
    """Return the one file that can be a checkpoint, ignoring hidden files and those that macOS adds."""
    paths = {name: PurePosixPath(name) for name in names}
    files = [name for name, path in paths.items() if not path.name.startswith(".") and "__MACOSX" not in path.parts]
    likely = [name for name in files if name.endswith(_ENDINGS)] or files
    if len(likely) != 1:
        what = ", ".join(likely[:3]) + (", ..." if len(likely) > 3 else "")
        number = f"{len(likely)} files{what and f' ({what})'}"
        raise UserError(f"Checkpoint {archive} is an archive of {number}: unpack it and name the checkpoint.")
    return likely[0]


def _read(stream: IO[bytes], file: Packed, path: Path) -> io.BytesIO:
    size = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
    limit = _FREE_BYTES + _MAX_GROWTH * size
    content = stream.read(limit + 1)
    if len(content) > limit:
        raise UserError(
            f"Checkpoint {path} would grow to more than {limit >> 20} MiB: unpack it yourself and name the file in it."
        )
    return io.BytesIO(content)


def _start(file: Packed, num_bytes: int = 8) -> bytes:
    if isinstance(file, io.BytesIO):
        return file.getbuffer()[:num_bytes].tobytes()
    with file.open("rb") as stream:
        return stream.read(num_bytes)
