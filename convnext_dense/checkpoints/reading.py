"""Reads checkpoint files without ever running code that they carry."""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from convnext_dense.checkpoints.sources import fetch

# Where training programs keep the weights, and the first of these that a file has is taken. The official programs keep
# the moving average under `model_ema`; mmengine's EMAHook puts it under `state_dict`, and the raw weights, which are
# what the paper's detectors are trained from, under `ema_state_dict`.
_WRAPPERS = ("state_dict", "model", "model_ema", "ema_state_dict")


class _Namespace:
    """Stands in for ``argparse.Namespace``, which official training files hold beside the weights; never looked at."""


def read_checkpoint(source: str | os.PathLike) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU.

    Args:
        source: See ``fetch``; a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file.

    Returns:
        What the file holds: a state dict, or a dict that has one in it.

    Raises:
        ValueError: The file is missing, empty, truncated, a web page, or asks for code to be run; the source cannot
            be reached. The message names the file and says what to do.
    """
    path = fetch(source)
    _check_first_bytes(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # mmap keeps the peak near one copy of the file; the legacy, non-zip format cannot be mapped.
        with torch.serialization.safe_globals([(_Namespace, "argparse.Namespace")]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Checkpoint {path} asks for more than tensors and plain values ({_wish(error)}), so it was not loaded. "
            "If you trust its author, load it where it was written and save its state dict alone."
        ) from error
    except Exception as error:  # a damaged pickle may ask for anything, such as an item of an empty list
        raise ValueError(
            f"Checkpoint {path} is damaged or not a checkpoint ({path.stat().st_size} bytes): {_first_line(error)} "
            "Download or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"Checkpoint {path} holds a {type(content).__name__}, not a dict of tensors.")
    return content


def read_metadata(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Gives what a checkpoint says about itself: safetensors' header, or ``meta`` of or on the content."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    meta = content.get("meta") or getattr(content, "meta", None)
    return dict(meta) if isinstance(meta, Mapping) else {}


def is_mapped(path: Path) -> bool:
    """Whether ``read_checkpoint`` maps this file, so that reading it anew costs nothing."""
    return path.suffix == ".safetensors" or zipfile.is_zipfile(path)


def unwrap(content: Mapping[str, Any], wrapper: str | None = None) -> dict[str, Tensor]:
    """Takes the state dict out of a training file.

    Args:
        content: What a file holds: weights under ``state_dict``, ``model``, ``model_ema`` or ``ema_state_dict``, or
            the weights.
        wrapper: Which of these to take; by default the first of them that is there.

    Returns:
        Tensors by name, without the ``module.`` that torch's parallel wrappers put before every name.
    """
    for key in (wrapper,) if wrapper else _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def split_wrapper(content: Mapping[str, Any], prefix: str | None) -> tuple[str | None, str | None]:
    """Splits a prefix such as ``model_ema.backbone.`` into the wrapper that it begins with, if any, and the rest."""
    first, _, rest = (prefix or "").partition(".")
    if first in _WRAPPERS and isinstance(content.get(first), Mapping):
        return first, rest or None
    return None, prefix


def _check_first_bytes(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(256).lstrip()
    if not start:
        raise ValueError(f"Checkpoint {path} is empty. Download or copy it again.")
    if start[:1] == b"<":
        raise ValueError(f"Checkpoint {path} is a web page, not weights: the download was answered by an error page.")
    if start.isascii() and start.decode("ascii").replace("\n", "").replace("\t", "").isprintable():
        raise ValueError(
            f"Checkpoint {path} is a text file, not weights; it begins with {start[:30].decode()!r}, as a pointer of "
            "git-lfs does where the file was not fetched. Download the file itself."
        )


def _wish(error: pickle.UnpicklingError) -> str:
    """What a refused file asked for."""
    text = str(error).split("WeightsUnpickler error:")[-1].strip()
    named = re.search(r"GLOBAL (\S+)", text)
    return named[1] if named else text.splitlines()[0].rstrip(".")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."
