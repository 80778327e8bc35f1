"""Find or download the file that a source of weights names."""

import json
import os
import re
from pathlib import Path, PurePosixPath

from convnext_dense.checkpoints.downloads import OPEN_SECONDS, cache_folder, download, within
from convnext_dense.checkpoints.zoo import PREFIX, find_entry, read_zoo
from convnext_dense.errors import UserError, first_line

# File names of weights in a repository or a folder of the Hugging Face hub, in the order in which they are tried.
_HUB_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_ADDRESSES = ("http://", "https://")
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")
_ENDINGS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".pth.tar", ".index.json")


def fetch(source: str | os.PathLike) -> Path:
    """Return the local path of a source, and download it first if it is not in the cache.

    Args:
        source: The path of a file, or of a folder with one checkpoint in it, whole or in parts with an index; an
            ``http(s)://`` address, cached where ``torch.hub`` does (``TORCH_HOME``); ``zoo:NAME`` for an entry of the
            zoo; ``timm:NAME`` for a model of timm with its tag, such as ``timm:convnext_tiny.fb_in1k``; or
            ``hf:OWNER/NAME`` for a repository on the Hugging Face hub. The last two are cached by the hub
            (``HF_HOME``).

    Raises:
        UserError: The file does not exist or cannot be downloaded; the message says where to put it.
    """
    source = os.fspath(source)
    if source.startswith(_ADDRESSES):
        return download(source)
    if source.startswith(PREFIX):
        return _fetch_from_zoo(source)
    if source.startswith("timm:"):
        return _fetch_from_hub(source, f"timm/{source.removeprefix('timm:')}")
    if source.startswith("hf:"):
        return _fetch_from_hub(source, source.removeprefix("hf:"))
    path = Path(source).expanduser()
    if path.is_dir():
        return _find_in_folder(path)
    if not path.is_file():
        hint = f" The zoo has one of this name: {PREFIX}{source}." if source in read_zoo() else ""
        raise UserError(f"Checkpoint {path} does not exist.{hint}")
    return path


def list_parts(path: Path) -> dict[Path, list[str] | None]:
    """List the files of a checkpoint, which may be in several parts with an index.

    Args:
        path: See ``fetch``.

    Returns:
        Names of the tensors to take from each file; None takes all.

    Raises:
        UserError: A part is missing, or the file is one of several parts.
    """
    if path.suffix == ".json":
        return {path.parent / file: names for file, names in _read_index(path).items()}
    _check_whole(path)
    return {path: None}


def _read_index(path: Path) -> dict[str, list[str]]:
    """Return the tensors' names in each part of a checkpoint, from the index of transformers and safetensors."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"Checkpoint {path} is not JSON ({error}); name the file that holds the weights.") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise UserError(
            f"Checkpoint {path} is not an index of weights (no weight_map in it); name the file that holds the weights."
        )
    parts: dict[str, list[str]] = {}
    for tensor, file in weight_map.items():
        parts.setdefault(file, []).append(tensor)
    outside = [file for file in parts if PurePosixPath(file).name != file or "\\" in file]
    absent = [file for file in parts if not (path.parent / file).is_file()]
    if outside or absent:
        raise UserError(f"Checkpoint {path} has a part {(outside or absent)[0]}, which does not lie beside the index.")
    return parts


def _check_whole(path: Path) -> None:
    """Raise ``UserError`` if the name of a file says that it is one of several parts of a checkpoint."""
    part = _PART.fullmatch(path.name)
    if part and int(part[2]) > 1:
        raise UserError(
            f"Checkpoint {path} is one of {int(part[2])} parts: name their index, {part[1]}{part[3]}.index.json, or "
            "their folder."
        )


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


def _fetch_from_zoo(name: str) -> Path:
    entry = find_entry(name)
    if entry.address.startswith(_ADDRESSES):
        return download(entry.address, digest=entry.digest, page=entry.page)
    return fetch(entry.address)


def _fetch_from_hub(source: str, repository: str) -> Path:
    """Return a file of a repository on the Hugging Face hub: from its cache, from a folder of ours, or downloaded."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError

    by_hand = cache_folder() / repository.replace("/", "--")
    cause: Exception | None = None
    try:
        for file in _HUB_FILES:
            cached = try_to_load_from_cache(repository, file)
            if isinstance(cached, str):
                return Path(cached)
        if by_hand.is_dir():
            return _find_in_folder(by_hand)
        # One question instead of a download of each name, which is tried again and again without a network.
        info = within(OPEN_SECONDS, lambda: HfApi().model_info(repository, timeout=OPEN_SECONDS))
        names = {file.rfilename for file in info.siblings or ()}
        found = [file for file in _HUB_FILES if file in names]
        if found:
            return Path(hf_hub_download(repository, found[0]))
        reason = f"it has none of {', '.join(_HUB_FILES)}"
    except UserError:
        raise
    except GatedRepoError:
        reason = "it is gated: accept its licence there, and log in with `hf auth login`"
    except Exception as error:  # of the hub, or of its library for HTTP, which has changed before
        reason, cause = first_line(error), error
    raise UserError(
        f"Checkpoint {source} cannot be downloaded from https://huggingface.co/{repository} ({reason}). Name a "
        "repository that has weights (a model of timm with its tag), or put its file at "
        f"{by_hand / _HUB_FILES[0]}, or name a local file."
    ) from cause
