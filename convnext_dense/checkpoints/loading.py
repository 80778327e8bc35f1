"""Loads weights into a model, whole or not at all, and reports what was loaded."""

import logging
import os
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from convnext_dense.checkpoints.reading import read_checkpoint

logger = logging.getLogger("mmengine")

# First convolution of the stem: present in every file and every backbone, and nowhere else.
_ANCHOR = "downsample_layers.0.0.weight"
_OUTPUT_NORM = re.compile(r"norm\d\.(weight|bias)")


@dataclass(frozen=True)
class LoadReport:
    """What a call of ``load_weights`` did, by tensor name; ``str()`` gives one line.

    Attributes:
        source: Path or address of the checkpoint.
        loaded: Tensors copied into the model.
        new: Output norms that the file cannot have because it was trained as a classifier; they keep their start.
        missing: Other tensors of the model that the file lacks.
        mismatched: Tensors whose shapes differ, as text ``name (file's shape, model's shape)``.
        unexpected: Tensors of the file that the model has no place for.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.new) + len(self.missing) + len(self.mismatched)
        return (
            f"Loaded {len(self.loaded)} of {total} tensors from {self.source}: {len(self.new)} output norms are new, "
            f"{len(self.missing)} missing, {len(self.mismatched)} of another shape, "
            f"{len(self.unexpected)} in the file are not used."
        )

    def raise_if_incomplete(self) -> None:
        """Raises ValueError, naming up to ten tensors, when one of the model's is missing or has another shape."""
        names = [*self.mismatched, *self.missing]
        if not names:
            return
        listing = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        cause = (
            "The file is of another size of model than the config, or of another number of classes."
            if self.mismatched
            else "The file is incomplete or of another architecture."
        )
        raise ValueError(f"{self} Not loaded: {listing}. {cause}")


def load_weights(
    model: nn.Module,
    source: str | os.PathLike,
    *,
    prefix: str | None = None,
    allow_partial: bool = False,
) -> LoadReport:
    """Loads a checkpoint into a backbone or a whole model.

    Args:
        model: A ConvNeXt backbone, or any model whose own state dict was saved.
        source: See ``read_checkpoint``.
        prefix: What stands before the wanted names in the file, such as ``'backbone.'``. By default it is found by
            where the stem is, for a backbone, and is empty for other models.
        allow_partial: Whether to go on when tensors of the model are missing or have another shape in the file.

    Returns:
        What was loaded; it is logged too.

    Raises:
        ValueError: A tensor of the model is missing or has another shape; nothing is loaded then. The message names
            up to ten of them.
    """
    wanted = model.state_dict()
    found = select_tensors(unwrap(read_checkpoint(source)), wanted, prefix, source)
    report = compare(wanted, found, source)
    if not allow_partial:
        report.raise_if_incomplete()
    model.load_state_dict({name: found[name] for name in report.loaded}, strict=False)
    logger.info(str(report))
    return report


def compare(wanted: dict[str, Tensor], found: dict[str, Tensor], source: str | os.PathLike) -> LoadReport:
    """Sorts the tensors of a model and of a file into loaded, new, missing, mismatched and unexpected.

    Batch norm's count of batches is not asked for: it came with torch 0.4.1 and does not change a result.
    """
    matching = [name for name, tensor in found.items() if name in wanted and tensor.shape == wanted[name].shape]
    absent = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    has_output_norms = any(_OUTPUT_NORM.fullmatch(name) for name in found)
    new = [name for name in absent if not has_output_norms and _OUTPUT_NORM.fullmatch(name)]
    return LoadReport(
        source=os.fspath(source),
        loaded=tuple(matching),
        new=tuple(new),
        missing=tuple(name for name in absent if name not in new),
        mismatched=tuple(
            f"{name} (file {tuple(tensor.shape)}, model {tuple(wanted[name].shape)})"
            for name, tensor in found.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ),
        unexpected=tuple(name for name in found if name not in wanted),
    )


def unwrap(content: dict[str, Any]) -> dict[str, Tensor]:
    """Takes the state dict out of a training file: under ``state_dict``, under ``model``, or the file itself."""
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def select_tensors(
    found: dict[str, Tensor], wanted: dict[str, Tensor], prefix: str | None, source: str | os.PathLike
) -> dict[str, Tensor]:
    """Keeps the tensors under the prefix, given or found by the stem's place, and takes the prefix off.

    Raises:
        ValueError: Nothing in the file stands under the given prefix, or the stem is in it several times or not at all.
    """
    if prefix is None and _ANCHOR in wanted:
        places = sorted({name.removesuffix(_ANCHOR) for name in found if name.endswith(_ANCHOR)})
        if len(places) != 1:
            where = f"under {', '.join(map(repr, places))}: choose one with prefix=" if places else "nowhere"
            raise ValueError(
                f"Checkpoint {source} has the stem of a ConvNeXt ({_ANCHOR}) {where}; "
                f"it holds {len(found)} tensors such as {', '.join(list(found)[:3]) or 'none'}."
            )
        prefix = places[0]
    if not prefix:
        return found
    prefix = prefix if prefix.endswith(".") else prefix + "."
    selected = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    if not selected:
        raise ValueError(
            f"Checkpoint {source} has nothing under prefix='{prefix}'; "
            f"it holds {len(found)} tensors such as {', '.join(list(found)[:3]) or 'none'}."
        )
    return selected
