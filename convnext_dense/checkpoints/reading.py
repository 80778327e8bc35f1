"""Reads checkpoint files without ever running code that they carry."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def read_checkpoint(source: str | os.PathLike) -> dict[str, Any]:
    """Reads a checkpoint file, or one behind a URL, onto the CPU.

    Args:
        source: Path of a ``.pth``, ``.pt`` or ``.safetensors`` file, or an ``http(s)://`` address; what is downloaded
            is kept in ``torch.hub``'s cache (``TORCH_HOME``).

    Returns:
        What the file holds: a state dict, or a dict that has one in it.

    Raises:
        ValueError: The file is missing, empty, truncated, a web page, or asks for code to be run; the address cannot
            be reached. The message names the file and says what to do.
    """
    path = fetch(source)
    _check_first_bytes(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # mmap keeps the peak near one copy of the file; the legacy, non-zip format cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise ValueError(
            f"Checkpoint {path} asks for more than tensors and plain values, so it was not loaded ({reason})"
        ) from error
    except (RuntimeError, EOFError, SafetensorError, KeyError, OSError) as error:
        raise ValueError(
            f"Checkpoint {path} is damaged or not a checkpoint ({path.stat().st_size} bytes): {_first_line(error)} "
            "Download or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"Checkpoint {path} holds a {type(content).__name__}, not a dict of tensors.")
    return content


def fetch(source: str | os.PathLike) -> Path:
    """Gives the local path of a source, downloading it once if it is an address."""
    source = os.fspath(source)
    if not source.startswith(("http://", "https://")):
        path = Path(source).expanduser()
        if not path.is_file():
            raise ValueError(f"Checkpoint {path} does not exist.")
        return path
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(source).path).name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(source, str(path))
        except OSError as error:
            raise ValueError(
                f"Checkpoint {source} could not be downloaded ({error}). Put the file at {path}, or name a local file."
            ) from error
    return path


def _check_first_bytes(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(256).lstrip()
    if not start:
        raise ValueError(f"Checkpoint {path} is empty. Download or copy it again.")
    if start[:1] == b"<":
        raise ValueError(f"Checkpoint {path} is a web page, not weights: the download was answered by an error page.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."
