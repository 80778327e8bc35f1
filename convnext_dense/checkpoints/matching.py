"""Match a checkpoint of any layout with a model: which tensors fit, and which do not."""

import os
import re
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import NamedTuple

from torch import Tensor

from convnext_dense.checkpoints.architecture import Architecture, describe
from convnext_dense.checkpoints.class_rows import ClassRows
from convnext_dense.checkpoints.detector_layouts import find_detector_layout, to_mmdet
from convnext_dense.checkpoints.layouts import Match, choose_layout, find_layouts, to_official
from convnext_dense.checkpoints.load_report import LoadReport, compare
from convnext_dense.checkpoints.shapes import fit_input_channels

# Tensors of a classifier beside its backbone, which is under `backbone.` in convnext_dense.ImageClassifier.
_CLASSIFIER = ("norm.weight", "norm.bias", "head.weight", "head.bias")
_STEM = "downsample_layers.0.0.weight"
# In the last two parts of a source: the name of a file, or that of a model's folder in a cache.
_TRAINED_ON_MAPS = re.compile(r"(dinov3|eupe)[^/\\]*([/\\][^/\\]*)?$")


class _Renamed(NamedTuple):
    """Tensors of a file by the model's names, and how they got them; see ``LoadReport`` for the fields."""

    tensors: dict[str, Tensor]
    layout: str = "own names"
    reshaped: Collection[str] = ()
    repeated: Collection[str] = ()
    variants: tuple[Architecture | None, Architecture | None] = (None, None)


def match_weights(
    wanted: Mapping[str, Tensor],
    in_file: Mapping[str, Tensor],
    source: str | os.PathLike,
    *,
    classes: ClassRows | None = None,
    digest: Future[str] | None = None,
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Find the tensors of a model in a checkpoint.

    A backbone takes the one ConvNeXt in the file, in any layout and under any prefix. A whole model takes the tensors
    of its ConvNeXt in the same way, and all others by their own names or, if the file has a layout of
    ``detector_layouts``, by mmdet's.

    Args:
        wanted: State dict of the model.
        in_file: Weights in the file, see ``wrappers.select_weights``.
        source: Name of the file, for the report.
        classes: The tensors with entries per class, which may be for other classes than those of the file; None loads
            them like all others.
        digest: The sha256 from ``hash_in_background``, for the report.

    Returns:
        The report, and the tensors of ``report.loaded`` by the model's names.

    Raises:
        UserError: A backbone is to be loaded and the file has no ConvNeXt, or the file has several.
    """
    models = [match for match in find_layouts(wanted) if match.layout.name in ("official", "official_isotropic")]
    if len(models) == 1:
        renamed = _rename(wanted, models[0], in_file, source)
        is_backbone = models[0].prefix == ""
    else:
        renamed = _Renamed(dict(in_file))
        is_backbone = any(name.startswith("stages.") for name in wanted)  # of this package, but not a ConvNeXt
    tensors = classes.fill(renamed.tensors, wanted) if classes else renamed.tensors
    report = compare(
        wanted,
        tensors,
        source,
        classes=classes,
        digest=digest,
        is_backbone=is_backbone,
        layout=renamed.layout,
        reshaped=renamed.reshaped,
        repeated=renamed.repeated,
        variants=renamed.variants,
    )
    return report, {name: tensors[name] for name in report.loaded}


def _rename(
    wanted: Mapping[str, Tensor], model: Match, in_file: Mapping[str, Tensor], source: str | os.PathLike
) -> _Renamed:
    """Bring the ConvNeXt of a file to the names and shapes of the model's ConvNeXt, and a detector to mmdet's names."""
    match = choose_layout(in_file, model, source)
    if match is None:
        return _Renamed(dict(in_file))
    classifier = {name: name for name in _CLASSIFIER if model.prefix.endswith("backbone.") and name in wanted}
    official = to_official(in_file, match, with_outer=model.prefix == "" or bool(classifier))
    in_model = {name[len(model.prefix) :]: tensor for name, tensor in wanted.items() if name.startswith(model.prefix)}
    tensors, reshaped = dict(official.tensors), list(official.reshaped)
    if _has_norm_on_map(match, tensors, source) and "norm3.weight" in in_model and "norm3.weight" not in tensors:
        norm = {name: tensors.pop(name) for name in ("norm.weight", "norm.bias") if name in tensors}
        tensors |= {name.replace("norm", "norm3"): tensor for name, tensor in norm.items()}
    if _STEM in tensors and _STEM in in_model and _differ_in_channels(tensors[_STEM], in_model[_STEM]):
        tensors[_STEM] = fit_input_channels(tensors[_STEM], in_model[_STEM].shape[1])
        reshaped.append(_STEM)
    tensors = {classifier.get(name, model.prefix + name): tensor for name, tensor in tensors.items()}
    # All names of a whole model's file may be under a prefix, which that of the backbone shows.
    outer = match.prefix.removesuffix(model.prefix) if match.prefix.endswith(model.prefix) else ""
    others = {name.removeprefix(outer): in_file[name] for name in official.left_out}
    detector = find_detector_layout(others) if model.prefix else None
    repeated: tuple[str, ...] = ()
    if detector:
        others, repeated = to_mmdet(others, detector)
    tensors |= {name: tensor for name, tensor in others.items() if name not in tensors}
    layout = detector.name if detector else match.name
    variants = (describe(official.tensors), describe(in_model))
    return _Renamed(tensors, layout, {model.prefix + name for name in reshaped}, repeated, variants)


def _has_norm_on_map(match: Match, official: Mapping[str, Tensor], source: str | os.PathLike) -> bool:
    """Whether the final norm of a file was trained at each position of the last map.

    timm's names do not tell. Its copies of DINOv3's and EUPE's weights have the name of the method, and no classifier.
    """
    named = match.name == "timm" and _TRAINED_ON_MAPS.search(os.fspath(source)) is not None
    return match.norm_on_map or (named and "head.weight" not in official)


def _differ_in_channels(in_file: Tensor, in_model: Tensor) -> bool:
    """Whether two stem weights (O, M, K, K) differ in M and in nothing else."""
    shape, other = in_file.shape, in_model.shape
    return len(shape) == len(other) == 4 and shape[1] != other[1] and (shape[0], *shape[2:]) == (other[0], *other[2:])
