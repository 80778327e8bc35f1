"""Read checkpoint files without running any code in them."""

import io
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file

from convnext_dense.checkpoints.containers import unpack
from convnext_dense.checkpoints.pickles import is_archive_of_torch, needs_rewriting, to_protocol_2
from convnext_dense.errors import UserError, first_line


class _Namespace:
    """Stand-in for ``argparse.Namespace``, which official training files hold beside the weights; it is never used."""


def read_files(path: Path, parts: Mapping[Path, Sequence[str] | None], *, mapped: bool = True) -> dict[str, Any]:
    """Read the ``parts`` of a checkpoint, see ``sources.list_parts``; ``path`` is the named file, for messages."""
    content: dict[str, Any] = {}
    for file, names in parts.items():
        part = _read_file(file, mapped)
        if names is None:
            return part
        absent = [name for name in names if name not in part]
        if absent:
            raise UserError(
                f"Checkpoint {path} says that {absent[0]} is in {file.name}, but it is not there. Download it again."
            )
        content |= {name: part[name] for name in names}
    return content


def _read_file(path: Path, mapped: bool) -> dict[str, Any]:
    with _translate_errors(path):
        name, file = unpack(path)
        content = _load(name, file, mapped)
    if not isinstance(content, dict):
        raise UserError(f"Checkpoint {path} holds a {type(content).__name__}, not a dict of tensors.")
    return content


def _load(name: str, file: Path | io.BytesIO, mapped: bool) -> Any:
    """Load an unpacked file."""
    if name.endswith(".safetensors") or _is_safetensors(file):
        if isinstance(file, Path):
            return load_file(file) if mapped else load_safetensors(file.read_bytes())
        return load_safetensors(file.getvalue())
    if name.endswith(".npz"):
        with np.load(_rewound(file), allow_pickle=False) as arrays:
            return {key: torch.from_numpy(array) for key, array in arrays.items()}
    file = to_protocol_2(file)
    # mmap keeps the peak memory near one copy of the file; the legacy, non-zip format cannot be mapped.
    mapped = mapped and isinstance(file, Path) and zipfile.is_zipfile(file)
    with torch.serialization.safe_globals([(_Namespace, "argparse.Namespace")]):
        return torch.load(_rewound(file), map_location="cpu", weights_only=True, mmap=mapped)


def _rewound(file: Path | io.BytesIO) -> Path | io.BytesIO:
    if isinstance(file, io.BytesIO):
        file.seek(0)
    return file


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn any error of reading a file into a ``UserError`` that names the file."""
    try:
        yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"Checkpoint {path} asks for more than tensors and plain values ({_asked_for(error)}): it was not loaded. "
            "If you trust its author, load it where it was written and save its state dict alone."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything, such as an IndexError
        raise UserError(
            f"Checkpoint {path} is damaged or not a checkpoint ({path.stat().st_size} bytes): {first_line(error)}. "
            "Download or copy it again."
        ) from error


def read_metadata(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a checkpoint: the header of safetensors, or the content's key or attribute ``meta``."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    meta = content.get("meta") or getattr(content, "meta", None)
    return dict(meta) if isinstance(meta, Mapping) else {}


def is_mapped(path: Path) -> bool:
    """Return whether ``read_checkpoint`` maps this file, so that reading it again costs nothing."""
    return path.suffix == ".safetensors" or (is_archive_of_torch(path) and not needs_rewriting(path))


def _is_safetensors(file: Path | io.BytesIO) -> bool:
    """Return whether a file begins like safetensors, with the length of a header and the header."""
    if isinstance(file, Path):
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(9)
    else:
        size, start = file.getbuffer().nbytes, file.getbuffer()[:9].tobytes()
    return start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= size


def _asked_for(error: pickle.UnpicklingError) -> str:
    """Return what a rejected file asked for; torch gives it only in the text of its error."""
    text = str(error).split("WeightsUnpickler error:")[-1].strip()
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return named[1]
    unknown = re.search(r"Unsupported operand (\d+)", text)
    return f"pickle instruction {unknown[1]}" if unknown else text.splitlines()[0].rstrip(".")
