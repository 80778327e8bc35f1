"""Convert checkpoints to the layouts of other libraries, and record where the weights come from."""

import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from convnext_dense.checkpoints.checkpoint import Checkpoint
from convnext_dense.checkpoints.layout_tables import ISOTROPIC, WRITABLE
from convnext_dense.checkpoints.layouts import from_official
from convnext_dense.checkpoints.licences import find_licence
from convnext_dense.errors import UserError
from convnext_dense.files import written_whole

PARTS = ("all", "backbone")
_METADATA = ("source", "sha256", "licence")
# The key under which programs that read a layout expect the weights; the other layouts are bare state dicts.
_WRAPPERS = {"official": "model", "mmpretrain": "state_dict"}
_OUTPUT_NORM = re.compile(r"norm\d\.")


def convert_state_dict(state_dict: Mapping[str, Any], to: str = "official", *, part: str = "all") -> dict[str, Tensor]:
    """Rename and reshape the weights of a ConvNeXt into another layout. No value changes.

    Args:
        state_dict: Weights in any layout, or the content of a training file.
        to: ``'official'``, ``'timm'``, ``'torchvision'``, ``'huggingface'`` or ``'mmpretrain'``.
        part: ``'all'`` converts the backbone, the final norm and the classifier; ``'backbone'`` leaves out the
            classifier, the necks and heads of detectors, and output norms that the layout has no place for.

    Returns:
        The converted weights; they share memory with ``state_dict``.

    Raises:
        UserError: ``state_dict`` does not hold exactly one ConvNeXt, or the layout has no place for some tensors.
    """
    return _convert(Checkpoint("state_dict", state_dict), to, part=part)


def _convert(checkpoint: Checkpoint, to: str, *, part: str) -> dict[str, Tensor]:
    if to not in WRITABLE:
        raise UserError(f"to='{to}' is not a layout that can be written; there are {', '.join(WRITABLE)}.")
    if part not in PARTS:
        raise UserError(f"part='{part}' must be one of {', '.join(PARTS)}.")
    match, official = checkpoint.match, checkpoint.official
    dropped = match.origin.dropped if match.origin else None
    unexpected = [
        name for name in official.left_out if dropped is None or not re.match(dropped, name.removeprefix(match.prefix))
    ]
    if part == "all" and unexpected:
        raise UserError(
            f"{len(unexpected)} tensors, such as {', '.join(unexpected[:3])}, are not part of a ConvNeXt classifier; "
            "part='backbone' leaves them out."
        )
    content = official.tensors
    if part == "backbone":
        content = {name: tensor for name, tensor in content.items() if not name.startswith("head.")}
    layout = ISOTROPIC if match.layout is ISOTROPIC and to == "official" else WRITABLE[to]
    written, unmapped = from_official(content, layout)
    if part == "backbone" and any(map(_OUTPUT_NORM.match, unmapped)):
        # Drop all four: a reader would take the last one alone for the final norm of a classifier.
        content = {name: tensor for name, tensor in content.items() if not _OUTPUT_NORM.match(name)}
        written, unmapped = from_official(content, layout)
    if unmapped:
        hint = "" if part == "backbone" else "; part='backbone' leaves out what is not the backbone"
        raise UserError(
            f"{len(unmapped)} tensors, such as {', '.join(unmapped[:3])}, have no place in the {to} layout{hint}."
        )
    return written


def convert_checkpoint(source: str | os.PathLike, out: str | os.PathLike, *, to: str, part: str = "all") -> str:
    """Convert a checkpoint file to another layout.

    The written file also carries ``source``, ``sha256`` (of the source) and ``licence``. A ``.safetensors`` file has
    them in its header. A ``.pth`` file has them under ``meta`` if the layout wraps the weights in a dict, and otherwise
    as the attribute ``meta`` of the OrderedDict that ``torch.load`` returns, so that every key is a weight. If the
    source already carries them, they are copied.

    Args:
        source: See ``sources.fetch``.
        out: File to write, ending in ``.safetensors``, ``.pth`` or ``.pt``.
        to: See ``convert_state_dict``.
        part: See ``convert_state_dict``.

    Returns:
        A one-line summary of what was written.

    Raises:
        UserError: The source cannot be read or converted, or ``out`` has another ending.
    """
    out = Path(out)
    if out.suffix not in (".safetensors", ".pth", ".pt"):
        raise UserError(f"OUT={out} must end in .safetensors, .pth or .pt.")
    checkpoint = Checkpoint(source)
    written, layout = _convert(checkpoint, to, part=part), checkpoint.match.name
    assert checkpoint.digest is not None
    origin = {
        "source": checkpoint.source,
        "sha256": checkpoint.digest.result(),
        "licence": find_licence(checkpoint.source, layout),
    }
    origin |= {key: value for key, value in checkpoint.meta.items() if key in _METADATA}
    _write(out, written, to, origin)
    total = len(checkpoint.tensors)
    return (
        f"Wrote {len(written)} of {total} tensors to {out}: {checkpoint.variant}, from layout {layout} to {to}, "
        f"{total - len(written)} left out; source {origin['source']}, sha256 {origin['sha256']}, "
        f"licence of the weights {origin['licence']}."
    )


def _write(out: Path, weights: dict[str, Tensor], to: str, origin: dict[str, str]) -> None:
    with written_whole(out) as unfinished:
        if out.suffix == ".safetensors":
            # transformers requires the key `format`
            tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
            save_file(tensors, unfinished, metadata={"format": "pt", **origin})
        elif to in _WRAPPERS:
            torch.save({_WRAPPERS[to]: weights, "meta": origin}, unfinished)
        else:
            bare = OrderedDict(weights)
            bare.meta = origin  # type: ignore[attr-defined]
            torch.save(bare, unfinished)
