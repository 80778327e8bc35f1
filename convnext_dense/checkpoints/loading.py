"""Loads weights into a model, whole or not at all, and reports what was loaded."""

import logging
import os
from collections.abc import Iterator

from torch import nn

from convnext_dense.checkpoints.checkpoint import Checkpoint
from convnext_dense.checkpoints.class_rows import ClassRows
from convnext_dense.checkpoints.matching import LoadReport

logger = logging.getLogger("mmengine")

# A file is mapped, and what was read of it counts as this process's memory until it is mapped anew, which costs some
# milliseconds: one copy of the model in memory, and not two, while an xlarge is loaded.
_GROUP_BYTES = 256 << 20


def load_weights(
    model: nn.Module,
    source: str | os.PathLike,
    *,
    prefix: str | None = None,
    classes: ClassRows | None = None,
    allow_partial: bool = False,
) -> LoadReport:
    """Load a checkpoint, in any published layout of ConvNeXt, into a backbone or a whole model.

    Args:
        model: A ConvNeXt backbone, or any model whose own state dict was saved. The stem is fitted to its number of
            input channels, see ``shapes.fit_input_channels``.
        source: A path, an ``http(s)://`` address, ``timm:NAME`` or ``hf:OWNER/NAME``; see ``sources.fetch``.
        prefix: What stands before the wanted names in the file, such as ``'backbone.'``; by default it is found. It
            may begin with what the weights lie under: ``'model_ema.'`` takes the moving average of an official
            training file instead of the trained weights, ``'ema_state_dict.'`` the trained weights of a file of ours
            whose ``state_dict`` is their moving average.
        classes: The tensors that have entries per class, which may be for other classes than the file's, as when a
            classifier is fine-tuned; the report says which classes start from their rows. None loads them as they are.
        allow_partial: Whether to go on when tensors of the model are missing or have another shape in the file.

    Returns:
        What was loaded. The same is logged as one line when the file's sha256 is known, which for a file of a gigabyte
        is about a second later.

    Raises:
        UserError: A tensor of the model is missing or has another shape; nothing is loaded then. The message names
            up to ten of them and the likely cause.
    """
    checkpoint = Checkpoint(source)
    wanted = model.state_dict()
    report, tensors = checkpoint.fit(wanted, prefix=prefix, classes=classes)
    if not allow_partial:
        report.raise_if_incomplete()
    sizes = {name: tensors[name].nbytes for name in report.loaded}
    for names in _groups(sizes) if checkpoint.is_mapped else [list(sizes)]:
        if not tensors:
            checkpoint = checkpoint.remapped()
            tensors = checkpoint.fit(wanted, prefix=prefix, classes=classes)[1]
        model.load_state_dict({name: tensors[name] for name in names}, strict=False)
        checkpoint.content, tensors = {}, {}
    assert report.digest is not None
    report.digest.add_done_callback(lambda _: logger.info(str(report)))
    return report


def _groups(sizes: dict[str, int]) -> Iterator[list[str]]:
    """Split names, given with their bytes, into groups of about the same size in memory."""
    group: list[str] = []
    num_bytes = 0
    for name, size in sizes.items():
        group.append(name)
        num_bytes += size
        if num_bytes >= _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group
