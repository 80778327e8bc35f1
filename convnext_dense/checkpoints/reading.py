"""Read checkpoint files without running any code in them."""

import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file
from torch import Tensor

from convnext_dense.checkpoints.containers import check_whole, read_index, unpack
from convnext_dense.checkpoints.pickles import is_archive_of_torch, needs_rewriting, to_protocol_2
from convnext_dense.checkpoints.sources import fetch
from convnext_dense.errors import UserError, first_line

# Keys under which training programs store the weights, in order of preference. The official programs store the moving
# average under `model_ema`. mmengine's EMAHook stores it under `state_dict`, and the raw weights, from which the
# paper's detectors are trained, under `ema_state_dict`.
_WRAPPERS = ("state_dict", "model", "model_ema", "ema_state_dict")
# torch.compile; FSDP; torch.distributed's and fairscale's activation checkpointing
_WRAPPING = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module)\.")
_MODULE = re.compile(r"^(module\.)+")
_MADE_FROM_CHECKPOINTS = {
    ".onnx": "an ONNX model",
    ".engine": "a TensorRT engine",
    ".tflite": "a TensorFlow Lite model",
    ".mlmodel": "a Core ML model",
}


class _Namespace:
    """Stand-in for ``argparse.Namespace``, which official training files hold beside the weights; it is never used."""


def read_checkpoint(source: str | os.PathLike, *, mapped: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        source: See ``fetch``; a file of ``torch.save`` or safetensors under any name, NumPy's ``.npz``, an archive with
            one of these in it, or the index (``.index.json``) of a checkpoint in several files.
        mapped: Whether tensors may be memory-mapped; False reads them into memory, so that they outlive the file.

    Returns:
        The content of the file: a state dict, or a dict that contains one.

    Raises:
        UserError: The file is missing, empty, truncated or a web page, or it needs code to be run, or the source cannot
            be reached. The message names the file and says what to do.
    """
    path = fetch(source)
    if path.suffix == ".json":
        return _read_parts(path, mapped)
    check_whole(path)
    return _read_file(path, mapped)


def _read_parts(index: Path, mapped: bool) -> dict[str, Tensor]:
    content: dict[str, Tensor] = {}
    for file, names in read_index(index).items():
        part = _read_file(index.parent / file, mapped)
        absent = [name for name in names if name not in part]
        if absent:
            raise UserError(
                f"Checkpoint {index} says that {absent[0]} is in {file}, but it is not there. Download it again."
            )
        content |= {name: part[name] for name in names}
    return content


def _read_file(path: Path, mapped: bool) -> dict[str, Any]:
    if path.suffix in _MADE_FROM_CHECKPOINTS:
        raise UserError(
            f"Checkpoint {path} is {_MADE_FROM_CHECKPOINTS[path.suffix]}: name the .pth or .safetensors file that it "
            "was made from."
        )
    with path.open("rb") as file:
        _check_first_bytes(file.read(256), path)
    with _translate_errors(path):
        name, packed = unpack(path)
        if isinstance(packed, io.BytesIO):
            _check_first_bytes(packed.getbuffer()[:256].tobytes(), path)
        content = _load(name, packed, mapped)
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


def unwrap(content: Mapping[str, Any], wrapper: str | None = None) -> dict[str, Tensor]:
    """Take the state dict out of a training file.

    Args:
        content: Content of a file: weights, or a dict that contains them at any depth. Of several dicts, the first of
            ``state_dict``, ``model``, ``model_ema`` and ``ema_state_dict`` is taken. A dict under any other key is
            taken if it is the only one with weights; otherwise all are kept, with their keys as prefixes of the names.
        wrapper: The dict to take, as keys joined by dots.

    Returns:
        Tensors by name, without what torch's module wrappers add to names, such as ``module.``.

    Raises:
        UserError: Two tensors have the same name once these additions are removed.
    """
    for key in wrapper.split(".") if wrapper else ():
        content = content[key]
    while (taken := _taken_key(content)) is not None:
        content = content[taken]
    several = _keys_with_weights(content)
    if several:
        return {f"{key}.{name}": tensor for key in several for name, tensor in unwrap(content[key]).items()}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    clean = {_without_wrappers(name): value for name, value in tensors.items()}
    if len(clean) < len(tensors):
        twice = next(name for name in tensors if name != _without_wrappers(name) and _without_wrappers(name) in tensors)
        raise UserError(
            f"The checkpoint has {twice} and {_without_wrappers(twice)}, which are one tensor without wrappers: remove "
            "one of them."
        )
    return clean


def split_wrapper(content: Mapping[str, Any], prefix: str | None) -> tuple[str | None, str | None]:
    """Split a prefix such as ``model_ema.backbone.`` into the keys of dicts that it begins with, and the rest."""
    if not prefix:
        return None, None
    first, _, rest = prefix.partition(".")
    if isinstance(content.get(first), Mapping):
        wrapper, rest_of_prefix = split_wrapper(content[first], rest)
        return ".".join(filter(None, (first, wrapper))), rest_of_prefix
    key = _taken_key(content)
    if key is not None:
        wrapper, rest_of_prefix = split_wrapper(content[key], prefix)
        if wrapper is not None:
            return f"{key}.{wrapper}", rest_of_prefix
    return None, _without_wrappers(prefix if prefix.endswith(".") else f"{prefix}.") or None


def _taken_key(content: Mapping[str, Any]) -> str | None:
    """Return the key of the dict to take weights from; None for ``content`` itself or if the choice is ambiguous."""
    for key in _WRAPPERS:
        child = content.get(key)
        if isinstance(child, Mapping) and (
            _keys_with_weights(child) or any(isinstance(value, Tensor) for value in child.values())
        ):
            return key
    keys = _keys_with_weights(content)
    return keys[0] if len(keys) == 1 else None


def _keys_with_weights(content: Mapping[str, Any]) -> list[str]:
    """Return the keys of dicts that contain weights at any depth; none if ``content`` itself has weights."""
    if any(_is_weight(name, value) for name, value in content.items()):
        return []
    return [
        key
        for key, value in content.items()
        if isinstance(key, str)
        and "." not in key
        and isinstance(value, Mapping)
        and (any(_is_weight(*item) for item in value.items()) or _keys_with_weights(value))
    ]


def _is_weight(name: Any, value: Any) -> bool:
    """Return whether a value is a weight of a network: its name has a module in it, unlike those of an optimizer."""
    return isinstance(value, Tensor) and isinstance(name, str) and "." in name


def _without_wrappers(name: str) -> str:
    """Remove what DataParallel, torch.compile, FSDP and activation checkpointing add to names."""
    return _MODULE.sub("", _WRAPPING.sub("", name))


def _is_safetensors(file: Path | io.BytesIO) -> bool:
    """Return whether a file begins like safetensors, with the length of a header and the header."""
    if isinstance(file, Path):
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(9)
    else:
        size, start = file.getbuffer().nbytes, file.getbuffer()[:9].tobytes()
    return start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= size


def _check_first_bytes(start: bytes, path: Path) -> None:
    start = start.lstrip()
    if not start:
        raise UserError(f"Checkpoint {path} is empty. Download or copy it again.")
    if start[:1] == b"<":
        raise UserError(f"Checkpoint {path} is a web page, not weights: the download was answered by an error page.")
    if start.isascii() and start.decode("ascii").replace("\n", "").replace("\t", "").isprintable():
        raise UserError(
            f"Checkpoint {path} is a text file, not weights; it begins with {start[:30].decode()!r}. A git-lfs pointer "
            "looks like this if the file was not fetched. Download the file itself."
        )


def _asked_for(error: pickle.UnpicklingError) -> str:
    """Return what a rejected file asked for; torch gives it only in the text of its error."""
    text = str(error).split("WeightsUnpickler error:")[-1].strip()
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return named[1]
    unknown = re.search(r"Unsupported operand (\d+)", text)
    return f"pickle instruction {unknown[1]}" if unknown else text.splitlines()[0].rstrip(".")
