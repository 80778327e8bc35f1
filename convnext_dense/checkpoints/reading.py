"""Reads checkpoint files without ever running code that they carry."""

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
from convnext_dense.errors import UserError

# Where training programs keep the weights, and the first of these that a file has is taken. The official programs keep
# the moving average under `model_ema`; mmengine's EMAHook puts it under `state_dict`, and the raw weights, which are
# what the paper's detectors are trained from, under `ema_state_dict`.
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
    """Stands in for ``argparse.Namespace``, which official training files hold beside the weights; never looked at."""


def read_checkpoint(source: str | os.PathLike, *, mapped: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        source: See ``fetch``; a file of ``torch.save`` or safetensors under whatever name, packed in an archive or not,
            NumPy's ``.npz``, or the index (``.index.json``) of a checkpoint in several files.
        mapped: Whether tensors may lie in the file until they are looked at; False reads what is to outlive the file.

    Returns:
        What the file holds: a state dict, or a dict that has one in it.

    Raises:
        UserError: The file is missing, empty, truncated, a web page, or asks for code to be run; the source cannot
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
                f"Checkpoint {index} says that {absent[0]} is in {file}, where it is not. Download it again."
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
    with _faults_named(path):
        name, packed = unpack(path)
        if isinstance(packed, io.BytesIO):
            _check_first_bytes(packed.getbuffer()[:256].tobytes(), path)
        content = _load(name, packed, mapped)
    if not isinstance(content, dict):
        raise UserError(f"Checkpoint {path} holds a {type(content).__name__}, not a dict of tensors.")
    return content


def _load(name: str, file: Path | io.BytesIO, mapped: bool) -> Any:
    """Load what is in no archive any more."""
    if name.endswith(".safetensors") or _is_safetensors(file):
        if isinstance(file, Path):
            return load_file(file) if mapped else load_safetensors(file.read_bytes())
        return load_safetensors(file.getvalue())
    if name.endswith(".npz"):
        with np.load(_rewound(file), allow_pickle=False) as arrays:
            return {key: torch.from_numpy(array) for key, array in arrays.items()}
    file = to_protocol_2(file)
    # mmap keeps the peak near one copy of the file; the legacy, non-zip format cannot be mapped.
    mapped = mapped and isinstance(file, Path) and zipfile.is_zipfile(file)
    with torch.serialization.safe_globals([(_Namespace, "argparse.Namespace")]):
        return torch.load(_rewound(file), map_location="cpu", weights_only=True, mmap=mapped)


def _rewound(file: Path | io.BytesIO) -> Path | io.BytesIO:
    if isinstance(file, io.BytesIO):
        file.seek(0)
    return file


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"Checkpoint {path} asks for more than tensors and plain values ({_asked_for(error)}): it was not loaded. "
            "If you trust its author, load it where it was written and save its state dict alone."
        ) from error
    except Exception as error:  # a damaged pickle may ask for anything, such as an item of an empty list
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"Checkpoint {path} is damaged or not a checkpoint ({path.stat().st_size} bytes): {_first_line(error)} "
            "Download or copy it again."
        ) from error


def read_metadata(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says about itself: safetensors' header, or ``meta`` of or on the content."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    meta = content.get("meta") or getattr(content, "meta", None)
    return dict(meta) if isinstance(meta, Mapping) else {}


def is_mapped(path: Path) -> bool:
    """Whether ``read_checkpoint`` maps this file, so that reading it anew costs nothing."""
    return path.suffix == ".safetensors" or (is_archive_of_torch(path) and not needs_rewriting(path))


def unwrap(content: Mapping[str, Any], wrapper: str | None = None) -> dict[str, Tensor]:
    """Take the state dict out of a training file.

    Args:
        content: What a file holds: weights, or a dict that has them in it, or dicts of dicts. ``state_dict``,
            ``model``, ``model_ema`` and ``ema_state_dict`` are taken in this order where there are several. Any other
            key is taken if it is the only one with weights; else all are kept, with their keys before the names.
        wrapper: Which to take, as keys with dots between them.

    Returns:
        Tensors by name, without what torch's wrappers of modules put into names, such as ``module.``.

    Raises:
        UserError: Two tensors have the same name without these.
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
        raise UserError(f"A checkpoint has {twice} and {_without_wrappers(twice)}, which are one tensor to its reader.")
    return clean


def split_wrapper(content: Mapping[str, Any], prefix: str | None) -> tuple[str | None, str | None]:
    """Split a prefix such as ``model_ema.backbone.`` into the wrappers that it begins with, if any, and the rest."""
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
    """Return the key under which the weights are; None if they are here, or if no one key is known to hold them."""
    for key in _WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and (
            _keys_with_weights(inner) or any(isinstance(v, Tensor) for v in inner.values())
        ):
            return key
    keys = _keys_with_weights(content)
    return keys[0] if len(keys) == 1 else None


def _keys_with_weights(content: Mapping[str, Any]) -> list[str]:
    """Keys of dicts with weights in them, at any depth; none where there are weights beside them."""
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
    """Weights of a network have a module in their name; an optimizer's have not."""
    return isinstance(value, Tensor) and isinstance(name, str) and "." in name


def _without_wrappers(name: str) -> str:
    """Take off what DataParallel, torch.compile, FSDP and activation checkpointing put into names."""
    return _MODULE.sub("", _WRAPPING.sub("", name))


def _is_safetensors(file: Path | io.BytesIO) -> bool:
    """Whether a file begins with the length of a header and the header, as safetensors does."""
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
            f"Checkpoint {path} is a text file, not weights; it begins with {start[:30].decode()!r}, as a pointer of "
            "git-lfs does where the file was not fetched. Download the file itself."
        )


def _asked_for(error: pickle.UnpicklingError) -> str:
    """Return what a refused file asked for."""
    text = str(error).split("WeightsUnpickler error:")[-1].strip()
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return named[1]
    unknown = re.search(r"Unsupported operand (\d+)", text)
    return f"instruction {unknown[1]} of pickle" if unknown else text.splitlines()[0].rstrip(".")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."
