"""Find or download the file that a source of weights names."""

import hashlib
import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlparse

import torch

from convnext_dense.errors import UserError, first_line

# File names of weights in a repository or a folder of the Hugging Face hub, in the order in which they are tried.
_HUB_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_ENDINGS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".pth.tar", ".index.json")


def fetch(source: str | os.PathLike) -> Path:
    """Return the local path of a source, and download it first if it is not in the cache.

    Args:
        source: The path of a file, or of a folder with one checkpoint in it, whole or in parts with an index; an
            ``http(s)://`` address, cached by ``torch.hub`` (``TORCH_HOME``); ``timm:NAME`` for a model of timm with its
            tag, such as ``timm:convnext_tiny.fb_in1k``; or ``hf:OWNER/NAME`` for a repository on the Hugging Face hub.
            The last two are cached by the hub (``HF_HOME``).

    Raises:
        UserError: The file does not exist or cannot be downloaded; the message says where to put it.
    """
    source = os.fspath(source)
    if source.startswith(("http://", "https://")):
        return _download(source)
    if source.startswith("timm:"):
        return _fetch_from_hub(source, f"timm/{source.removeprefix('timm:')}")
    if source.startswith("hf:"):
        return _fetch_from_hub(source, source.removeprefix("hf:"))
    path = Path(source).expanduser()
    if path.is_dir():
        return _find_in_folder(path)
    if not path.is_file():
        raise UserError(f"Checkpoint {path} does not exist.")
    return path


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    return _hash(path.open("rb", buffering=0))


def hash_in_background(path: Path) -> Future[str]:
    """Compute ``hash_file`` in a thread, because for an xlarge it takes longer than loading.

    The file is opened before this function returns, so it may be moved or deleted afterwards.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(_hash, path.open("rb", buffering=0))
    pool.shutdown(wait=False)
    return future


def _hash(file: io.FileIO) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 22))  # few large pieces, because each read waits for the GIL
    with file:
        while num_bytes := file.readinto(buffer):
            digest.update(buffer[:num_bytes])
    return digest.hexdigest()


def _find_in_folder(folder: Path) -> Path:
    for name in _HUB_FILES:
        for path in (folder / name, folder / f"{name}.index.json"):
            if path.is_file():
                return path
    found = sorted(path for path in folder.iterdir() if path.name.endswith(_ENDINGS))
    if len(found) == 1:
        return found[0]
    what = ", ".join(path.name for path in found[:3]) + (", ..." if len(found) > 3 else "")
    raise UserError(
        f"Checkpoint {folder} is a folder with {len(found)} checkpoints{what and f' ({what})'}: name one file."
    )


def _download(address: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(address).path).name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path))
        except OSError as error:
            raise UserError(
                f"Checkpoint {address} could not be downloaded ({error}). Put the file at {path}, or name a local file."
            ) from error
    return path


def _fetch_from_hub(source: str, repository: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for file in _HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file))
        except LocalEntryNotFoundError as error:
            reason: Exception = error  # the hub cannot be reached or is off; another file may be in the cache
        except EntryNotFoundError as error:
            reason = error
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = error
            break
    raise UserError(
        f"Checkpoint {source} cannot be downloaded from https://huggingface.co/{repository} ({first_line(reason)}). "
        "Name a repository that has weights (a model of timm with its tag), log in if its licence requires it, or name "
        "a local file."
    ) from reason
