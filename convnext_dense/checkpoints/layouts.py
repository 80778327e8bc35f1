"""Detect the layout of a ConvNeXt checkpoint from its keys, and rename tensors between layouts.

Every conversion goes through the official names, so each layout needs one table and not a script per pair of layouts. A
rule renames one tensor, in both directions; ``shapes`` converts the shapes.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from convnext_dense.checkpoints.detector_layouts import find_detector_layout
from convnext_dense.checkpoints.layout_tables import LAYOUTS, ORIGINS, PARTS, Layout, Origin
from convnext_dense.checkpoints.shapes import to_layout_shape, to_model_shape, unroll_kernel
from convnext_dense.checkpoints.wrappers import sample_names, unwrap
from convnext_dense.errors import UserError

_DENSE_NORM = re.compile(r"norm[0-2]\.")


@dataclass(frozen=True)
class Match:
    """A ConvNeXt found in a checkpoint.

    Attributes:
        layout: The layout of its names.
        prefix: The prefix of its names.
        origin: The kind of file within the layout, if it is a known one.
    """

    layout: Layout
    prefix: str
    origin: Origin | None

    @property
    def name(self) -> str:
        """Name of the layout, as users see it."""
        return self.origin.name if self.origin else self.layout.name

    @property
    def norm_on_map(self) -> bool:
        """See ``Layout.norm_on_map``."""
        return self.origin.norm_on_map if self.origin and self.origin.norm_on_map else self.layout.norm_on_map


@dataclass(frozen=True)
class OfficialWeights:
    """A ConvNeXt with official names.

    Attributes:
        tensors: Tensors by official name, in the shapes of ``shapes.to_model_shape``.
        reshaped: Official names of the tensors whose shape in the file is another one.
        left_out: Names in the file that are not part of the ConvNeXt.
    """

    tensors: dict[str, Tensor]
    reshaped: tuple[str, ...]
    left_out: tuple[str, ...]


def find_layouts(names: Iterable[str]) -> list[Match]:
    """Find every ConvNeXt among the keys of a checkpoint, in any layout and under any prefix."""
    names = list(names)
    matches = []
    for layout in LAYOUTS:
        block = _block_pattern(layout.block, layout.mark or layout.parts[1].replace("*", "weight"))
        prefixes = {match[1] or "" for match in map(block.fullmatch, names) if match}
        matches += [Match(layout, prefix, _find_origin(layout, prefix, names)) for prefix in sorted(prefixes)]
    return matches


def detect_layout(state_dict: Mapping[str, object]) -> str:
    """Return the name of the layout of a state dict or training file, judged by its keys alone.

    Raises:
        UserError: There is no ConvNeXt in it, or more than one.
    """
    names = unwrap(state_dict)
    match, detector = find_layout(names), find_detector_layout(names)
    return detector.name if detector else match.name


def find_layout(names: Iterable[str]) -> Match:
    """Find the one ConvNeXt among the keys of a checkpoint.

    Raises:
        UserError: There is no ConvNeXt, or more than one.
    """
    names = list(names)
    matches = find_layouts(names)
    if len(matches) != 1:
        places = ", ".join(repr(match.prefix) for match in matches)
        what = f"several ConvNeXts, under {places}" if matches else "no ConvNeXt of any known layout"
        raise UserError(f"There is {what} among {len(names)} tensors such as {', '.join(names[:3]) or 'none'}.")
    return matches[0]


def choose_layout(in_file: Mapping[str, Tensor], model: Match, source: str | os.PathLike) -> Match | None:
    """Choose the ConvNeXt of a checkpoint to load into that of a model.

    Args:
        in_file: Weights of the checkpoint.
        model: The ConvNeXt in the model.
        source: Name of the checkpoint, for messages.

    Returns:
        The match, or None for a whole model if the checkpoint has no ConvNeXt.

    Raises:
        UserError: There is no ConvNeXt for a backbone, or it is not clear which of several to load.
    """
    matches = find_layouts(in_file)
    if len(matches) == 1:
        return matches[0]
    same_place = [match for match in matches if match.prefix == model.prefix]
    if model.prefix and (same_place or not matches):
        return same_place[0] if len(same_place) == 1 else None
    if matches:
        places = ", ".join(repr(match.prefix.removesuffix(model.prefix)) for match in matches)
        raise UserError(f"Checkpoint {source} has several ConvNeXts, under {places}: choose one with prefix=PREFIX.")
    raise UserError(f"Checkpoint {source} has no ConvNeXt of any known layout; {sample_names(in_file)}.")


def to_official(tensors: Mapping[str, Tensor], match: Match, *, with_outer: bool = True) -> OfficialWeights:
    """Rename a ConvNeXt to the official names and give its tensors the shapes that this package's models use.

    Args:
        tensors: Tensors of a checkpoint by name.
        match: The ConvNeXt to rename, from ``find_layouts``.
        with_outer: Whether tensors outside of the prefix, that is the classifier's head, are renamed too.

    Raises:
        UserError: Two names stand for the same tensor, or a tensor has a shape that does not go with its name.
    """
    layout, prefix = match.layout, match.prefix
    outer_prefix = re.sub(rf"(?<![^.])({layout.inner_prefix})$", "", prefix)
    renamed: dict[str, str] = {}
    left_out = []
    for name in tensors:
        official = _rename(name[len(prefix) :], _read_rules(layout.name)) if name.startswith(prefix) else None
        if official is None and with_outer and name.startswith(outer_prefix):
            official = _rename(name[len(outer_prefix) :], _outer_read_rules(layout.name))
        if official is None:
            left_out.append(name)
        elif official in renamed:
            raise UserError(f"Tensors {renamed[official]} and {name} are both {official} in the {match.name} layout.")
        else:
            renamed[official] = name
    if "norm3.*" in layout.write_also and not any(map(_DENSE_NORM.match, renamed)):
        # Without norm0 to norm2, norm3 is a classifier's final norm.
        renamed = {re.sub(r"^norm3\.", "norm.", name): source for name, source in renamed.items()}
    official_tensors = {}
    for name, source in renamed.items():
        tensor = unroll_kernel(tensors[source]) if source.endswith(".kernel") else tensors[source]
        official_tensors[name] = to_model_shape(name, tensor)
    reshaped = [name for name, source in renamed.items() if official_tensors[name].shape != tensors[source].shape]
    return OfficialWeights(official_tensors, tuple(reshaped), tuple(left_out))


def from_official(tensors: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename tensors from the official names to those of a layout and give them its shapes. The order is kept.

    Returns:
        The renamed tensors, and the official names that the layout has no place for.

    Raises:
        UserError: Two tensors would get the same name.
    """
    prefix = _written_prefix(tensors, layout)
    written: dict[str, Tensor] = {}
    unmapped = []
    for name, tensor in tensors.items():
        new_name = _rename(name, _write_rules(layout.name))
        new_name = _rename(name, _outer_write_rules(layout.name)) if new_name is None else prefix + new_name
        if new_name is None:
            unmapped.append(name)
        elif new_name in written:
            raise UserError(f"The {layout.name} layout has only one place, {new_name}, for {name} and another tensor.")
        else:
            written[new_name] = to_layout_shape(name, tensor, layout, conv_mlp=_has_conv_mlp(tensors, layout))
    return written, tuple(unmapped)


def _written_prefix(tensors: Mapping[str, Tensor], layout: Layout) -> str:
    if layout.name != "huggingface":
        return layout.prefix
    if any(name.startswith("norm3.") for name in tensors):
        return ""  # ConvNextBackbone is the only class with output norms and has no prefix
    return "convnextv2." if any(".grn." in name for name in tensors) else layout.prefix


def _has_conv_mlp(tensors: Mapping[str, Tensor], layout: Layout) -> bool:
    """Return whether timm builds this model with 1x1 convolutions instead of linear layers."""
    if layout.name != "timm":
        return False
    stem = tensors.get("downsample_layers.0.0.weight")
    # atto, femto, pico and nano of both versions, and convnext_tiny_hnf, the one model with norm_pre
    return (stem is not None and stem.shape[0] in (40, 48, 64, 80)) or "norm3.weight" in tensors


def _find_origin(layout: Layout, prefix: str, names: list[str]) -> Origin | None:
    own_names = [name[len(prefix) :] for name in names if name.startswith(prefix)]
    for origin in ORIGINS:
        if (
            origin.layout in (None, layout.name)
            and re.search(f"(^|\\.){origin.prefix}$", prefix)
            and any(re.match(origin.tell, name) for name in own_names)
        ):
            return origin
    return None


Rules = tuple[tuple[re.Pattern, str], ...]


def _rename(name: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(replacement)
    return None


def _pairs(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield pairs (name in the layout, official name) for every stage, the written names first."""
    stem, downsample, block = layout.official
    yield from zip(layout.stem, stem, strict=True)
    for stage in range(4):
        if stage > 0:
            yield from _at_stage(zip(layout.downsample, downsample, strict=True), stage)
        parts = zip(layout.parts, PARTS, strict=True)
        yield from _at_stage(((layout.block + part, block + official) for part, official in parts if part), stage)
        yield from _at_stage(layout.tail.items(), stage)


def _at_stage(pairs: Iterable[tuple[str, str]], stage: int) -> Iterator[tuple[str, str]]:
    numbers = {"{s}": stage, "{n}": stage + 1, "{odd}": 2 * stage + 1, "{even}": 2 * stage}
    for pair in pairs:
        filled = []
        for template in pair:
            for mark, number in numbers.items():
                template = template.replace(mark, str(number))
            filled.append(template)
        yield filled[0], filled[1]


def _compile(pairs: Iterable[tuple[str, str]]) -> Rules:
    """Make rules that rename the first name of each pair to the second; the first of several equal names wins."""
    rules: dict[str, str] = {}
    for from_name, to_name in pairs:
        pattern = re.escape(from_name).replace(r"\{b\}", r"(?P<block>\d+)").replace(r"\*", "(?P<kind>weight|bias)")
        rules.setdefault(pattern, to_name.replace("{b}", r"\g<block>").replace("*", r"\g<kind>"))
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules.items())


def _layout(name: str) -> Layout:
    return next(layout for layout in LAYOUTS if layout.name == name)


@cache
def _read_rules(layout_name: str) -> Rules:
    layout = _layout(layout_name)
    also = [pair for stage in range(4) for pair in _at_stage(layout.read_also.items(), stage)]
    return _compile([*_pairs(layout), *also])


@cache
def _write_rules(layout_name: str) -> Rules:
    layout = _layout(layout_name)
    return _compile((official, name) for name, official in [*_pairs(layout), *layout.write_also.items()])


@cache
def _outer_read_rules(layout_name: str) -> Rules:
    return _compile(_layout(layout_name).outer.items())


@cache
def _outer_write_rules(layout_name: str) -> Rules:
    return _compile((official, name) for name, official in _layout(layout_name).outer.items())


@cache
def _block_pattern(block: str, mark: str) -> re.Pattern:
    """Return a pattern for the depthwise weight of any block: all files have it, each layout under its own name."""
    name = re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(block + mark))
    return re.compile(rf"(.*\.)?{name}")
