"""Holds a checkpoint, in whatever layout, against a model: which tensors fit, and which do not."""

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

# What a backbone for dense outputs has beside a classifier's: output norms, and the levels of an isotropic ConvNeXt.
_DENSE_ONLY = re.compile(r"(norm|levels\.)\d(\.\d)?\.(weight|bias)")
_DENSE_ALONE = re.compile(r"(norm[0-2]|levels\.\d(\.\d)?)\.(weight|bias)")  # norm3 may be a classifier's final norm
# What a classifier has beside its backbone, which stands under `backbone.` in ours.
_CLASSIFIER = ("norm.weight", "norm.bias", "head.weight", "head.bias")
_STEM = "downsample_layers.0.0.weight"


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint fits a model, by the model's tensor names; ``str()`` gives one line.

    Attributes:
        source: Path, address or other name of the checkpoint.
        layout: Its layout, see ``detect_layout``; ``'own names'`` where the model has no ConvNeXt to look for, or the
            checkpoint has none.
        digest: Of the file, being taken; None if there is no file to take it of.
        loaded: Tensors that go into the model.
        new: Output norms that the file cannot have because it was trained as a classifier; they keep their start.
        missing: Other tensors of the model that the file lacks.
        mismatched: Tensors whose shapes differ, as text ``name (file's shape, model's shape)``.
        unexpected: Tensors of the file that the model has no place for.
        reshaped: Those of ``loaded`` whose shape in the file was another way of keeping the same tensor, or which were
            fitted to another number of input channels.
        left_new: Tensors with entries per class that keep their start because the file knows none of the classes.
        classes: Which classes start from the file's rows, if there was a question; see ``ClassRows``.
        file_variant: Which ConvNeXt the file has, or None.
        model_variant: Which ConvNeXt the model has, or None.
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
        """Of the file, in hexadecimal digits; empty if it is not known. Waits until it is taken."""
        return self.digest.result() if self.digest else ""

    def raise_if_incomplete(self) -> None:
        """Raise ``UserError``, naming up to ten tensors, when one of the model's is missing or has another shape."""
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
            return "The ConvNeXt is the same: these tensors were changed, or the heads are for other classes."
        if self.mismatched:
            return "The file is of another size of model than the config, or of another number of classes."
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

    A backbone takes the one ConvNeXt in the file, in any layout and under any prefix. In a whole model the tensors of
    its ConvNeXt are looked for in the same way, and all others by their own names.

    Args:
        wanted: The model's state dict.
        content: What the file holds.
        source: Name of the file, for the report.
        prefix: What stands before the wanted names, such as ``'backbone.'``; by default it is found. It may begin with
            the wrapper that is to be read: ``'model_ema.'``.
        classes: The tensors that have entries per class, which may be for other classes than the file's; None if they
            must be the file's as they are.
        digest: What ``hash_in_background`` gives for the file, for the report.

    Returns:
        The report, and the tensors of ``report.loaded`` by the model's names.

    Raises:
        UserError: The file has no ConvNeXt for a backbone, or several, or nothing under the prefix.
    """
    wrapper, prefix = split_wrapper(content, prefix)
    found = flatten_grn(_strip(unwrap(content, wrapper), prefix, source))
    homes = [match for match in find_layouts(wanted) if match.layout.name in ("official", "official_isotropic")]
    home = homes[0] if len(homes) == 1 else None
    match = _choose(find_layouts(found), home, found, source) if home else None
    if home is None or match is None:
        found = classes.fill(found, wanted) if classes else found
        is_backbone = any(name.startswith("stages.") for name in wanted)  # one of ours that is no ConvNeXt
        report = _compare(wanted, found, source, classes=classes, digest=digest, is_backbone=is_backbone)
        return report, {name: found[name] for name in report.loaded}

    classifier = {name: name for name in _CLASSIFIER if home.prefix.endswith("backbone.") and name in wanted}
    official = to_official(found, match, with_outer=home.prefix == "" or bool(classifier))
    inner = {name[len(home.prefix) :]: tensor for name, tensor in wanted.items() if name.startswith(home.prefix)}
    tensors, reshaped = dict(official.tensors), _reshaped(official.tensors, found, official.sources)
    if match.norm_on_map and "norm3.weight" in inner and "norm3.weight" not in tensors:
        norm = {name: tensors.pop(name) for name in ("norm.weight", "norm.bias") if name in tensors}
        tensors |= {name.replace("norm", "norm3"): tensor for name, tensor in norm.items()}
    if _STEM in tensors and _STEM in inner and _differ_in_channels(tensors[_STEM], inner[_STEM]):
        tensors[_STEM] = fit_input_channels(tensors[_STEM], inner[_STEM].shape[1])
        reshaped.append(_STEM)
    tensors = {classifier.get(name, home.prefix + name): tensor for name, tensor in tensors.items()}
    # A file of a whole model may have all of its names under a prefix, as the backbone's shows.
    outer = match.prefix.removesuffix(home.prefix) if match.prefix.endswith(home.prefix) else ""
    others = {name.removeprefix(outer): found[name] for name in official.left_out}
    tensors |= {name: tensor for name, tensor in others.items() if name not in tensors}
    tensors = classes.fill(tensors, wanted) if classes else tensors
    report = _compare(
        wanted,
        tensors,
        source,
        classes=classes,
        digest=digest,
        is_backbone=home.prefix == "",
        layout=match.name,
        reshaped={home.prefix + name for name in reshaped},
        variants=(describe(official.tensors), describe(inner)),
    )
    return report, {name: tensors[name] for name in report.loaded}


def _strip(tensors: dict[str, Tensor], prefix: str | None, source: str | os.PathLike) -> dict[str, Tensor]:
    """Keep the tensors under the prefix and take it off."""
    if not prefix:
        return tensors
    prefix = prefix if prefix.endswith(".") else prefix + "."
    selected = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not selected:
        raise UserError(f"Checkpoint {source} has nothing under prefix='{prefix}'; {_sample(tensors)}.")
    return selected


def _choose(matches: list[Match], home: Match, found: dict[str, Tensor], source: str | os.PathLike) -> Match | None:
    """Pick the ConvNeXt to load out of those in the file; None in a whole model whose file has none."""
    if len(matches) == 1:
        return matches[0]
    same_place = [match for match in matches if match.prefix == home.prefix]
    if home.prefix and (same_place or not matches):
        return same_place[0] if len(same_place) == 1 else None
    if matches:
        places = ", ".join(repr(match.prefix.removesuffix(home.prefix)) for match in matches)
        raise UserError(f"Checkpoint {source} has several ConvNeXts, under {places}: choose one with prefix=.")
    raise UserError(f"Checkpoint {source} has no ConvNeXt of any known layout; {_sample(found)}.")


def _sample(tensors: Mapping[str, Tensor]) -> str:
    return f"it holds {len(tensors)} tensors such as {', '.join(list(tensors)[:3]) or 'none'}"


def _reshaped(official: Mapping[str, Tensor], found: Mapping[str, Tensor], sources: Mapping[str, str]) -> list[str]:
    return [name for name, tensor in official.items() if tensor.shape != found[sources[name]].shape]


def _differ_in_channels(in_file: Tensor, in_model: Tensor) -> bool:
    """Whether two stem weights (O, M, K, K) differ in M and in nothing else."""
    shape, other = in_file.shape, in_model.shape
    return len(shape) == len(other) == 4 and shape[1] != other[1] and (shape[0], *shape[2:]) == (other[0], *other[2:])


def _compare(
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    source: str | os.PathLike,
    *,
    classes: ClassRows | None,
    digest: Future[str] | None,
    is_backbone: bool = False,
    layout: str = "own names",
    reshaped: set[str] | None = None,
    variants: tuple[Architecture | None, Architecture | None] = (None, None),
) -> LoadReport:
    """Sort the tensors of a model and of a file.

    Batch norm's count of batches is not asked for: it came with torch 0.4.1 and does not change a result.
    """
    matching = [name for name, tensor in found.items() if name in wanted and tensor.shape == wanted[name].shape]
    differing = {
        name: f"{name} (file {tuple(tensor.shape)}, model {tuple(wanted[name].shape)})"
        for name, tensor in found.items()
        if name in wanted and tensor.shape != wanted[name].shape
    }
    left_new = classes.new if classes else []
    absent = [
        name
        for name in wanted
        if name not in found and name not in left_new and not name.endswith("num_batches_tracked")
    ]
    from_classifier = is_backbone and not any(_DENSE_ALONE.fullmatch(name) for name in found)
    new = [name for name in absent if from_classifier and _DENSE_ONLY.fullmatch(name)]
    return LoadReport(
        source=os.fspath(source),
        layout=layout,
        digest=digest,
        loaded=tuple(matching),
        new=tuple(new),
        missing=tuple(name for name in absent if name not in new),
        mismatched=tuple(differing.values()),
        unexpected=tuple(name for name in found if name not in wanted),
        reshaped=tuple(name for name in matching if name in (reshaped or ())),
        left_new=tuple(left_new),
        classes=str(classes or ""),
        file_variant=variants[0],
        model_variant=variants[1],
    )
