"""Report how a checkpoint fits a model."""

import os
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from convnext_dense.checkpoints.architecture import Architecture
from convnext_dense.checkpoints.class_rows import ClassRows
from convnext_dense.checkpoints.detector_layouts import find_advice
from convnext_dense.checkpoints.new_tensors import may_stay_new
from convnext_dense.errors import UserError


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint fits a model, by the model's tensor names; ``str()`` returns one line.

    Attributes:
        source: Path, address or other name of the checkpoint.
        layout: Layout of the checkpoint, see ``detect_layout``; ``'own names'`` if the model or the checkpoint has no
            ConvNeXt.
        digest: The sha256 of the file, computed in the background; None if there is no file.
        loaded: Tensors that are loaded.
        new: Output norms that the file lacks because it holds a classifier; they keep their initial values.
        missing: Other tensors of the model that the file lacks.
        mismatched: Tensors whose shapes differ, as text ``name (file's shape, model's shape)``.
        unexpected: Tensors of the file that the model does not have.
        reshaped: Those of ``loaded`` that the file stores in another shape, or that were adapted to another number of
            input channels.
        repeated: Names in the file that repeat a loaded tensor under a second name, with equal values.
        left_new: Tensors with entries per class that keep their initial values because the file has none of the
            classes.
        classes: The classes that start from their rows in the file, as text; see ``ClassRows``.
        file_variant: Architecture of the ConvNeXt in the file, or None.
        model_variant: Architecture of the ConvNeXt in the model, or None.
    """

    source: str
    layout: str
    digest: Future[str] | None
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    repeated: tuple[str, ...]
    left_new: tuple[str, ...]
    classes: str
    file_variant: Architecture | None
    model_variant: Architecture | None

    def __str__(self) -> str:
        total = sum(map(len, (self.loaded, self.new, self.missing, self.mismatched, self.left_new)))
        repeated = f"{len(self.repeated)} repeat others, " if self.repeated else ""
        classes = f"{self.classes}; " if self.classes else ""
        return (
            f"Loaded {len(self.loaded)} of {total} tensors from {self.source}: {len(self.new)} output norms are new, "
            f"{len(self.missing)} missing, {len(self.mismatched)} of another shape, {len(self.reshaped)} reshaped, "
            f"{repeated}{len(self.unexpected)} in the file are not used; {classes}layout {self.layout}, sha256 "
            f"{self.sha256 or 'not known'}."
        )

    @property
    def sha256(self) -> str:
        """The sha256 of the file in hexadecimal digits; empty if there is no file. Waits until it is computed."""
        return self.digest.result() if self.digest else ""

    def raise_if_incomplete(self) -> None:
        """Raise a ``UserError`` that names up to ten tensors if any is missing or has another shape in the file.

        Of a whole detector in another code base's names, no tensor may be left unused either.
        """
        advice = find_advice(self.layout)
        names = [*self.mismatched, *self.missing, *(self.unexpected if advice else ())]
        if not names:
            return
        listing = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        text = str(self).replace("Loaded ", "Could load only ", 1)
        raise UserError(f"{text} Nothing was loaded, because these do not fit: {listing}. {self._cause(advice)}")

    def _cause(self, advice: str | None) -> str:
        if self.file_variant and self.model_variant and not self.file_variant.fits(self.model_variant):
            return f"The file is a {self.file_variant}, the model a {self.model_variant}."
        if self.mismatched and self.file_variant:
            return "The ConvNeXt is the same, but these tensors were changed or the heads are for other classes."
        if advice and not self.mismatched:
            return advice
        if self.mismatched:
            return "The file is for another model size than the config, or for another number of classes."
        if part := self._absent_part():
            return (
                f"The file has no {part} at all: it was trained with another config, so name that one; a run writes "
                "its config into its work dir."
            )
        if self.file_variant:
            return "The file is incomplete."
        return "The file is incomplete or of another architecture."

    def _absent_part(self) -> str | None:
        """Return the part of the model, such as a mask head, that has all missing tensors; None if there is no such."""
        for depth in (1, 2):  # a head, or a part of roi_head
            parts = {".".join(name.split(".")[:depth]) for name in self.missing}
            part = parts.pop()
            if not parts and part not in self.missing and not any(name.startswith(f"{part}.") for name in self.loaded):
                return part
        return None


def compare(
    wanted: Mapping[str, Tensor],
    in_file: Mapping[str, Tensor],
    source: str | os.PathLike,
    *,
    classes: ClassRows | None,
    digest: Future[str] | None,
    is_backbone: bool,
    layout: str,
    reshaped: Collection[str],
    repeated: Collection[str],
    variants: tuple[Architecture | None, Architecture | None],
) -> LoadReport:
    """Compare the tensors of a model with those of a file.

    Batch norm's ``num_batches_tracked`` may be missing: it came with torch 0.4.1 and does not affect results.

    ``in_file`` are the file's tensors by the model's names, ``variants`` the ConvNeXts of the file and of the model;
    ``is_backbone`` says that the model has no heads. For the other arguments see ``LoadReport``.
    """
    matching = [name for name, tensor in in_file.items() if name in wanted and tensor.shape == wanted[name].shape]
    differing = {
        name: f"{name} (file {tuple(tensor.shape)}, model {tuple(wanted[name].shape)})"
        for name, tensor in in_file.items()
        if name in wanted and tensor.shape != wanted[name].shape
    }
    left_new = classes.new if classes else []
    absent = [
        name
        for name in wanted
        if name not in in_file and name not in left_new and not name.endswith("num_batches_tracked")
    ]
    new = may_stay_new(absent, in_file) if is_backbone else []
    return LoadReport(
        source=os.fspath(source),
        layout=layout,
        digest=digest,
        loaded=tuple(matching),
        new=tuple(new),
        missing=tuple(name for name in absent if name not in new),
        mismatched=tuple(differing.values()),
        unexpected=tuple(name for name in in_file if name not in wanted),
        reshaped=tuple(name for name in matching if name in reshaped),
        repeated=tuple(repeated),
        left_new=tuple(left_new),
        classes=str(classes or ""),
        file_variant=variants[0],
        model_variant=variants[1],
    )
