"""Holds a checkpoint, in whatever layout, against a model: which tensors fit, and which do not."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from convnext_dense.checkpoints.architecture import Architecture, describe
from convnext_dense.checkpoints.layouts import Match, find_layouts, to_official
from convnext_dense.checkpoints.reading import split_wrapper, unwrap
from convnext_dense.checkpoints.shapes import fit_input_channels, flatten_grn

# What a backbone for dense outputs has beside a classifier's: output norms, and the levels of an isotropic ConvNeXt.
_DENSE_ONLY = re.compile(r"(norm|levels\.)\d(\.\d)?\.(weight|bias)")
_DENSE_NORM = re.compile(r"norm[0-2]\.(weight|bias)")
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
        left_new: Tensors of a classifier's head that keep their start because the file has another number of classes,
            as text like ``mismatched``.
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
    file_variant: Architecture | None
    model_variant: Architecture | None

    def __str__(self) -> str:
        total = sum(map(len, (self.loaded, self.new, self.missing, self.mismatched, self.left_new)))
        head = f"the head is new because the classes differ: {', '.join(self.left_new)}; " if self.left_new else ""
        return (
            f"Loaded {len(self.loaded)} of {total} tensors from {self.source}: {len(self.new)} output norms are new, "
            f"{len(self.missing)} missing, {len(self.mismatched)} of another shape, {len(self.reshaped)} reshaped, "
            f"{len(self.unexpected)} in the file are not used; {head}layout {self.layout}, "
            f"sha256 {self.sha256 or 'not known'}."
        )

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal digits; empty if it is not known. Waits until it is taken."""
        return self.digest.result() if self.digest else ""

    def raise_if_incomplete(self) -> None:
        """Raises ValueError, naming up to ten tensors, when one of the model's is missing or has another shape."""
        names = [*self.mismatched, *self.missing]
        if not names:
            return
        listing = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        text = str(self).replace("Loaded ", "Could load only ", 1)
        raise ValueError(f"{text} Nothing was loaded, because these do not fit: {listing}. {self._cause()}")

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
    head: str | None = None,
    digest: Future[str] | None = None,
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Finds the tensors of a model in a checkpoint.

    A backbone takes the one ConvNeXt in the file, in any layout and under any prefix. In a whole model the tensors of
    its ConvNeXt are looked for in the same way, and all others by their own names.

    Args:
        wanted: The model's state dict.
        content: What the file holds.
        source: Name of the file, for the report.
        prefix: What stands before the wanted names, such as ``'backbone.'``; by default it is found. It may begin with
            the wrapper that is to be read: ``'model_ema.'``.
        head: Name of a linear layer of the model that may be for another number of classes than the file's; it is left
            as it is then.
        digest: What ``hash_in_background`` gives for the file, for the report.

    Returns:
        The report, and the tensors of ``report.loaded`` by the model's names.

    Raises:
        ValueError: The file has no ConvNeXt for a backbone, or several, or nothing under the prefix.
    """
    wrapper, prefix = split_wrapper(content, prefix)
    found = flatten_grn(_strip(unwrap(content, wrapper), prefix, source))
    homes = [match for match in find_layouts(wanted) if match.layout.name in ("official", "official_isotropic")]
    home = homes[0] if len(homes) == 1 else None
    match = _choose(find_layouts(found), home, found, source) if home else None
    if home is None or match is None:
        report = _compare(wanted, found, source, head=head, digest=digest)
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
    tensors |= {name: found[name] for name in official.left_out if name not in tensors}
    report = _compare(
        wanted,
        tensors,
        source,
        head=head,
        digest=digest,
        layout=match.name,
        reshaped={home.prefix + name for name in reshaped},
        variants=(describe(official.tensors), describe(inner)),
    )
    return report, {name: tensors[name] for name in report.loaded}


def _strip(tensors: dict[str, Tensor], prefix: str | None, source: str | os.PathLike) -> dict[str, Tensor]:
    """Keeps the tensors under the prefix and takes it off."""
    if not prefix:
        return tensors
    prefix = prefix if prefix.endswith(".") else prefix + "."
    selected = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not selected:
        raise ValueError(f"Checkpoint {source} has nothing under prefix='{prefix}'; {_sample(tensors)}.")
    return selected


def _choose(matches: list[Match], home: Match, found: dict[str, Tensor], source: str | os.PathLike) -> Match | None:
    """Picks the ConvNeXt to load out of those in the file; None in a whole model whose file has none."""
    if len(matches) == 1:
        return matches[0]
    if home.prefix:
        same_place = [match for match in matches if match.prefix == home.prefix]
        return same_place[0] if len(same_place) == 1 else None
    if matches:
        places = ", ".join(repr(match.prefix) for match in matches)
        raise ValueError(f"Checkpoint {source} has several ConvNeXts, under {places}: choose one with prefix=.")
    raise ValueError(f"Checkpoint {source} has no ConvNeXt of any known layout; {_sample(found)}.")


def _sample(tensors: Mapping[str, Tensor]) -> str:
    return f"it holds {len(tensors)} tensors such as {', '.join(list(tensors)[:3]) or 'none'}"


def _reshaped(official: Mapping[str, Tensor], found: Mapping[str, Tensor], sources: Mapping[str, str]) -> list[str]:
    return [name for name, tensor in official.items() if tensor.shape != found[sources[name]].shape]


def _differ_in_channels(in_file: Tensor, in_model: Tensor) -> bool:
    """Whether two stem weights (O, M, K, K) differ in M and in nothing else."""
    shape, other = in_file.shape, in_model.shape
    return len(shape) == len(other) == 4 and shape[1] != other[1] and (shape[0], *shape[2:]) == (other[0], *other[2:])


def _differ_in_classes(name: str, head: str | None, in_file: Tensor, in_model: Tensor) -> bool:
    """Whether a tensor has one row per class, of the same width, for another number of classes."""
    return head is not None and name in (f"{head}.weight", f"{head}.bias") and in_file.shape[1:] == in_model.shape[1:]


def _compare(
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    source: str | os.PathLike,
    *,
    head: str | None,
    digest: Future[str] | None,
    layout: str = "own names",
    reshaped: set[str] | None = None,
    variants: tuple[Architecture | None, Architecture | None] = (None, None),
) -> LoadReport:
    """Sorts the tensors of a model and of a file.

    Batch norm's count of batches is not asked for: it came with torch 0.4.1 and does not change a result.
    """
    matching = [name for name, tensor in found.items() if name in wanted and tensor.shape == wanted[name].shape]
    differing = {
        name: f"{name} (file {tuple(tensor.shape)}, model {tuple(wanted[name].shape)})"
        for name, tensor in found.items()
        if name in wanted and tensor.shape != wanted[name].shape
    }
    left_new = {name for name in differing if _differ_in_classes(name, head, found[name], wanted[name])}
    absent = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    from_classifier = not any(_DENSE_NORM.fullmatch(name) for name in found)
    new = [name for name in absent if from_classifier and _DENSE_ONLY.fullmatch(name)]
    return LoadReport(
        source=os.fspath(source),
        layout=layout,
        digest=digest,
        loaded=tuple(matching),
        new=tuple(new),
        missing=tuple(name for name in absent if name not in new),
        mismatched=tuple(text for name, text in differing.items() if name not in left_new),
        unexpected=tuple(name for name in found if name not in wanted),
        reshaped=tuple(name for name in matching if name in (reshaped or ())),
        left_new=tuple(text for name, text in differing.items() if name in left_new),
        file_variant=variants[0],
        model_variant=variants[1],
    )
