"""Load weights into a model, completely or not at all, and report what was loaded."""

import logging
import os
from collections.abc import Iterator

from torch import nn

from convnext_dense.checkpoints.checkpoint import Checkpoint
from convnext_dense.checkpoints.class_rows import ClassRows
from convnext_dense.checkpoints.detector_layouts import check_settings
from convnext_dense.checkpoints.load_report import LoadReport

logger = logging.getLogger("mmengine")

# Pages read from a mapped file count as memory of this process until the file is mapped again, which takes a few
# milliseconds. Mapping it again after each group keeps one copy of an xlarge in memory instead of two.
_GROUP_BYTES = 256 << 20


def load_weights(
    model: nn.Module,
    source: str | os.PathLike,
    *,
    prefix: str | None = None,
    classes: ClassRows | None = None,
    allow_partial: bool = False,
) -> LoadReport:
    """Load a checkpoint in any published layout of ConvNeXt into a backbone or a whole model.

    Args:
        model: A ConvNeXt backbone, or any model whose own state dict was saved. The weight of the stem is adapted to
            the model's number of input channels, see ``shapes.fit_input_channels``.
        source: A path, an ``http(s)://`` address, ``zoo:NAME``, ``timm:NAME`` or ``hf:OWNER/NAME``; see
            ``sources.fetch``.
        prefix: Prefix of the wanted names in the file, such as ``'backbone.'``; by default it is detected. It may begin
            with the key of the state dict: ``'model_ema.'`` takes the moving average of an official training file
            instead of the trained weights; ``'ema_state_dict.'`` takes the trained weights of one of this package's
            files, whose ``state_dict`` is their moving average.
        classes: The tensors with entries per class, which may be for other classes than those of the file, as in
            fine-tuning a classifier; the report lists the classes that start from their rows in the file. None loads
            these tensors like all others.
        allow_partial: Whether to continue if tensors of the model are missing or have another shape in the file.

    Returns:
        What was loaded. The report is also logged as one line once the sha256 of the file is known, about a second
        later for a file of a gigabyte.

    Raises:
        UserError: A tensor of the model is missing or has another shape in the file; then nothing is loaded. The
            message names up to ten of these tensors and the likely cause. The same for a whole detector of another code
            base (``detector_layouts``) that has a tensor or a setting which the model has not.
    """
    checkpoint = Checkpoint(source)
    wanted = model.state_dict()
    report, tensors = checkpoint.fit(wanted, prefix=prefix, classes=classes)
    if not allow_partial:
        report.raise_if_incomplete()
        check_settings(model, report.layout)
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
    """Split names, given with their sizes in bytes, into groups of about ``_GROUP_BYTES``."""
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
