"""Match a checkpoint of any layout with a model: which tensors fit, and which do not."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from convnext_dense.checkpoints.architecture import Architecture, describe
from convnext_dense.checkpoints.class_rows import ClassRows
from convnext_dense.checkpoints.layouts import Match, find_layouts, to_official
from convnext_dense.checkpoints.reading import split_wrapper, unwrap
from convnext_dense.checkpoints.shapes import fit_input_channels, flatten_grn
from convnext_dense.errors import UserError

# Tensors that only a backbone for dense prediction has: output norms, and the levels of an isotropic ConvNeXt.
_DENSE_ONLY = re.compile(r"(norm|levels\.)\d(\.\d)?\.(weight|bias)")
_DENSE_ALONE = re.compile(r"(norm[0-2]|levels\.\d(\.\d)?)\.(weight|bias)")  # norm3 may be a classifier's final norm
# Tensors of a classifier beside its backbone, which is under `backbone.` in convnext_dense.ImageClassifier.
_CLASSIFIER = ("norm.weight", "norm.bias", "head.weight", "head.bias")
_STEM = "downsample_layers.0.0.weight"


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
    left_new: tuple[str, ...]
    classes: str
    file_variant: Architecture | None
    model_variant: Architecture | None

    def __str__(self) -> str:
        total = sum(map(len, (self.loaded, self.new, self.missing, self.mismatched, self.left_new)))
        classes = f"{self.classes}; " if self.classes else ""
        return (
            f"Loaded {len(self.loaded)} of {total} tensors from {self.source}: {len(self.new)} output norms are new, "
            f"{len(self.missing)} missing, {len(self.mismatched)} of another shape, {len(self.reshaped)} reshaped, "
            f"{len(self.unexpected)} in the file are not used; {classes}layout {self.layout}, sha256 "
            f"{self.sha256 or 'not known'}."
        )

    @property
    def sha256(self) -> str:
        """The sha256 of the file in hexadecimal digits; empty if there is no file. Waits until it is computed."""
        return self.digest.result() if self.digest else ""

    def raise_if_incomplete(self) -> None:
        """Raise a ``UserError`` that names up to ten tensors if any is missing or has another shape in the file."""
        names = [*self.mismatched, *self.missing]
        if not names:
            return
        listing = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        text = str(self).replace("Loaded ", "Could load only ", 1)
        raise UserError(f"{text} Nothing was loaded, because these do not fit: {listing}. {self._cause()}")

    def _cause(self) -> str:
        if self.file_variant and self.model_variant and not self.file_variant.fits(self.model_variant):
            return f"The file is a {self.file_variant}, the model a {self.model_variant}."
        if self.mismatched and self.file_variant:
            return "The ConvNeXt is the same, but these tensors were changed or the heads are for other classes."
        if self.mismatched:
            return "The file is for another model size than the config, or for another number of classes."
        if self.file_variant:
            return "The file is incomplete."
        return "The file is incomplete or of another architecture."


def match_weights(
    wanted: Mapping[str, Tensor],
    content: Mapping[str, Any],
    source: str | os.PathLike,
    *,
    prefix: str | None = None,
    classes: ClassRows | None = None,
    digest: Future[str] | None = None,
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Find the tensors of a model in a checkpoint.

    A backbone takes the one ConvNeXt in the file, in any layout and under any prefix. A whole model takes the tensors
    of its ConvNeXt in the same way, and all others by their own names.

    Args:
        wanted: State dict of the model.
        content: Content of the file.
        source: Name of the file, for the report.
        prefix: Prefix of the wanted names in the file, such as ``'backbone.'``; by default it is detected. It may begin
            with the key of the state dict, such as ``'model_ema.'``.
        classes: The tensors with entries per class, which may be for other classes than those of the file; None loads
            them like all others.
        digest: The sha256 from ``hash_in_background``, for the report.

    Returns:
        The report, and the tensors of ``report.loaded`` by the model's names.

    Raises:
        UserError: A backbone is to be loaded and the file has no ConvNeXt, or the file has several, or it has nothing
            under the prefix.
    """
    wrapper, prefix = split_wrapper(content, prefix)
    in_file = flatten_grn(_strip(unwrap(content, wrapper), prefix, source))
    model_matches = [match for match in find_layouts(wanted) if match.layout.name in ("official", "official_isotropic")]
    model_match = model_matches[0] if len(model_matches) == 1 else None
    match = _choose(find_layouts(in_file), model_match, in_file, source) if model_match else None
    if model_match is None or match is None:
        in_file = classes.fill(in_file, wanted) if classes else in_file
        is_backbone = any(name.startswith("stages.") for name in wanted)  # of this package, but not a ConvNeXt
        report = _compare(wanted, in_file, source, classes=classes, digest=digest, is_backbone=is_backbone)
        return report, {name: in_file[name] for name in report.loaded}

    classifier = {name: name for name in _CLASSIFIER if model_match.prefix.endswith("backbone.") and name in wanted}
    official = to_official(in_file, match, with_outer=model_match.prefix == "" or bool(classifier))
    in_model = {
        name[len(model_match.prefix) :]: tensor
        for name, tensor in wanted.items()
        if name.startswith(model_match.prefix)
    }
    tensors, reshaped = dict(official.tensors), _reshaped(official.tensors, in_file, official.sources)
    if match.norm_on_map and "norm3.weight" in in_model and "norm3.weight" not in tensors:
        norm = {name: tensors.pop(name) for name in ("norm.weight", "norm.bias") if name in tensors}
        tensors |= {name.replace("norm", "norm3"): tensor for name, tensor in norm.items()}
    if _STEM in tensors and _STEM in in_model and _differ_in_channels(tensors[_STEM], in_model[_STEM]):
        tensors[_STEM] = fit_input_channels(tensors[_STEM], in_model[_STEM].shape[1])
        reshaped.append(_STEM)
    tensors = {classifier.get(name, model_match.prefix + name): tensor for name, tensor in tensors.items()}
    # All names of a whole model's file may be under a prefix, which that of the backbone shows.
    outer = match.prefix.removesuffix(model_match.prefix) if match.prefix.endswith(model_match.prefix) else ""
    others = {name.removeprefix(outer): in_file[name] for name in official.left_out}
    tensors |= {name: tensor for name, tensor in others.items() if name not in tensors}
    tensors = classes.fill(tensors, wanted) if classes else tensors
    report = _compare(
        wanted,
        tensors,
        source,
        classes=classes,
        digest=digest,
        is_backbone=model_match.prefix == "",
        layout=match.name,
        reshaped={model_match.prefix + name for name in reshaped},
        variants=(describe(official.tensors), describe(in_model)),
    )
    return report, {name: tensors[name] for name in report.loaded}


def _strip(tensors: dict[str, Tensor], prefix: str | None, source: str | os.PathLike) -> dict[str, Tensor]:
    """Return the tensors under the prefix, without it."""
    if not prefix:
        return tensors
    prefix = prefix if prefix.endswith(".") else prefix + "."
    selected = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not selected:
        raise UserError(f"Checkpoint {source} has nothing under prefix='{prefix}'; {_sample(tensors)}.")
    return selected


def _choose(
    matches: list[Match], model_match: Match, in_file: dict[str, Tensor], source: str | os.PathLike
) -> Match | None:
    """Return the ConvNeXt of the file to load; None for a whole model whose file has none."""
    if len(matches) == 1:
        return matches[0]
    same_place = [match for match in matches if match.prefix == model_match.prefix]
    if model_match.prefix and (same_place or not matches):
        return same_place[0] if len(same_place) == 1 else None
    if matches:
        places = ", ".join(repr(match.prefix.removesuffix(model_match.prefix)) for match in matches)
        raise UserError(f"Checkpoint {source} has several ConvNeXts, under {places}: choose one with prefix=PREFIX.")
    raise UserError(f"Checkpoint {source} has no ConvNeXt of any known layout; {_sample(in_file)}.")


def _sample(tensors: Mapping[str, Tensor]) -> str:
    return f"it holds {len(tensors)} tensors such as {', '.join(list(tensors)[:3]) or 'none'}"


def _reshaped(official: Mapping[str, Tensor], in_file: Mapping[str, Tensor], sources: Mapping[str, str]) -> list[str]:
    return [name for name, tensor in official.items() if tensor.shape != in_file[sources[name]].shape]


def _differ_in_channels(in_file: Tensor, in_model: Tensor) -> bool:
    """Return whether two stem weights (O, M, K, K) differ only in M."""
    shape, other = in_file.shape, in_model.shape
    return len(shape) == len(other) == 4 and shape[1] != other[1] and (shape[0], *shape[2:]) == (other[0], *other[2:])


def _compare(
    wanted: Mapping[str, Tensor],
    in_file: Mapping[str, Tensor],
    source: str | os.PathLike,
    *,
    classes: ClassRows | None,
    digest: Future[str] | None,
    is_backbone: bool = False,
    layout: str = "own names",
    reshaped: set[str] | None = None,
    variants: tuple[Architecture | None, Architecture | None] = (None, None),
) -> LoadReport:
    """Compare the tensors of a model with those of a file.

    Batch norm's ``num_batches_tracked`` may be missing: it came with torch 0.4.1 and does not affect results.
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
    from_classifier = is_backbone and not any(_DENSE_ALONE.fullmatch(name) for name in in_file)
    new = [name for name in absent if from_classifier and _DENSE_ONLY.fullmatch(name)]
    return LoadReport(
        source=os.fspath(source),
        layout=layout,
        digest=digest,
        loaded=tuple(matching),
        new=tuple(new),
        missing=tuple(name for name in absent if name not in new),
        mismatched=tuple(differing.values()),
        unexpected=tuple(name for name in in_file if name not in wanted),
        reshaped=tuple(name for name in matching if name in (reshaped or ())),
        left_new=tuple(left_new),
        classes=str(classes or ""),
        file_variant=variants[0],
        model_variant=variants[1],
    )
