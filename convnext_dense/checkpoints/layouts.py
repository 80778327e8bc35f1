"""Tells layouts of ConvNeXt checkpoints apart by their keys, and renames between them.

Everything goes through the official names, so that a layout is one table and not one script per pair. A rule renames
one tensor, in both directions; shapes follow in ``shapes``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from convnext_dense.checkpoints.layout_tables import LAYOUTS, ORIGINS, PARTS, Layout, Origin
from convnext_dense.checkpoints.reading import unwrap
from convnext_dense.checkpoints.shapes import to_layout_shape, to_model_shape, unroll_kernel
from convnext_dense.errors import UserError

_DENSE_NORM = re.compile(r"norm[0-2]\.")


@dataclass(frozen=True)
class Match:
    """A ConvNeXt found in a checkpoint.

    Attributes:
        layout: The family of names.
        prefix: What stands before them.
        origin: What the file is beyond its family, or None.
    """

    layout: Layout
    prefix: str
    origin: Origin | None

    @property
    def name(self) -> str:
        """The layout as users call it."""
        return self.origin.name if self.origin else self.layout.name

    @property
    def norm_on_map(self) -> bool:
        """See ``Layout.norm_on_map``."""
        return self.origin.norm_on_map if self.origin and self.origin.norm_on_map else self.layout.norm_on_map


@dataclass(frozen=True)
class OfficialWeights:
    """A ConvNeXt under the official names.

    Attributes:
        tensors: By official name, in the shapes of ``shapes.to_model_shape``.
        sources: Official name to the name in the file.
        left_out: Names in the file that are no part of it.
    """

    tensors: dict[str, Tensor]
    sources: dict[str, str]
    left_out: tuple[str, ...]


def find_layouts(names: Iterable[str]) -> list[Match]:
    """Find every ConvNeXt among the keys of a checkpoint, in whatever layout and under whatever prefix."""
    names = list(names)
    matches = []
    for layout in LAYOUTS:
        block = _block_pattern(layout.block, layout.mark or layout.parts[1].replace("*", "weight"))
        prefixes = {found[1] or "" for found in map(block.fullmatch, names) if found}
        matches += [Match(layout, prefix, _find_origin(layout, prefix, names)) for prefix in sorted(prefixes)]
    return matches


def detect_layout(state_dict: Mapping[str, object]) -> str:
    """Name the layout of a state dict, or of the one in a training file, from its keys alone.

    Raises:
        UserError: There is no ConvNeXt in it, or more than one.
    """
    return find_layout(unwrap(state_dict)).name


def find_layout(names: Iterable[str]) -> Match:
    """Find the one ConvNeXt among the keys of a checkpoint.

    Raises:
        UserError: There is none, or more than one.
    """
    names = list(names)
    matches = find_layouts(names)
    if len(matches) != 1:
        places = ", ".join(repr(match.prefix) for match in matches)
        what = f"several ConvNeXts, under {places}" if matches else "no ConvNeXt of any known layout"
        raise UserError(f"There is {what} among {len(names)} tensors such as {', '.join(names[:3]) or 'none'}.")
    return matches[0]


def to_official(tensors: Mapping[str, Tensor], match: Match, *, with_outer: bool = True) -> OfficialWeights:
    """Rename a ConvNeXt to the official names and bring its tensors into the shapes of the models here.

    Args:
        tensors: Content of a checkpoint.
        match: What ``find_layouts`` found in it.
        with_outer: Whether what stands outside of the prefix, that is the classifier's head, is renamed too.

    Raises:
        UserError: Two tensors are the same one under two names, or one has a shape that its name cannot have.
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
        # Without norm0 to norm2 beside it, norm3 is a classifier's final norm.
        renamed = {re.sub(r"^norm3\.", "norm.", name): source for name, source in renamed.items()}
    official_tensors = {}
    for name, source in renamed.items():
        tensor = unroll_kernel(tensors[source]) if source.endswith(".kernel") else tensors[source]
        official_tensors[name] = to_model_shape(name, tensor)
    return OfficialWeights(official_tensors, renamed, tuple(left_out))


def from_official(tensors: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename official names to those of a layout, in its shapes and its order of names as they come.

    Returns:
        The tensors, and the official names that the layout has no place for.

    Raises:
        UserError: Two tensors would have the same name.
    """
    prefix = _written_prefix(tensors, layout)
    written: dict[str, Tensor] = {}
    unmapped = []
    for name, tensor in tensors.items():
        theirs = _rename(name, _write_rules(layout.name))
        theirs = _rename(name, _outer_write_rules(layout.name)) if theirs is None else prefix + theirs
        if theirs is None:
            unmapped.append(name)
        elif theirs in written:
            raise UserError(f"The {layout.name} layout has one place, {theirs}, for {name} and another tensor.")
        else:
            written[theirs] = to_layout_shape(name, tensor, layout, conv_mlp=_has_conv_mlp(tensors, layout))
    return written, tuple(unmapped)


def _written_prefix(tensors: Mapping[str, Tensor], layout: Layout) -> str:
    if layout.name != "huggingface":
        return layout.prefix
    if any(name.startswith("norm3.") for name in tensors):
        return ""  # ConvNextBackbone, the only class with output norms, is saved without a prefix
    return "convnextv2." if any(".grn." in name for name in tensors) else layout.prefix


def _has_conv_mlp(tensors: Mapping[str, Tensor], layout: Layout) -> bool:
    """Whether timm builds this model with 1x1 convolutions instead of linear layers."""
    if layout.name != "timm":
        return False
    stem = tensors.get("downsample_layers.0.0.weight")
    # convnext_atto, femto, pico, nano of both versions, and convnext_tiny_hnf, the one with norm_pre
    return (stem is not None and stem.shape[0] in (40, 48, 64, 80)) or "norm3.weight" in tensors


def _find_origin(layout: Layout, prefix: str, names: list[str]) -> Origin | None:
    inner = [name[len(prefix) :] for name in names if name.startswith(prefix)]
    for origin in ORIGINS:
        if (
            origin.layout in (None, layout.name)
            and re.search(f"(^|\\.){origin.prefix}$", prefix)
            and any(re.match(origin.tell, name) for name in inner)
        ):
            return origin
    return None


Rules = tuple[tuple[re.Pattern, str], ...]


def _rename(name: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        found = pattern.fullmatch(name)
        if found:
            return found.expand(replacement)
    return None


def _pairs(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield (layout's name, official name) with the stage filled in, written names first."""
    stem, downsample, block = layout.official
    yield from zip(layout.stem, stem, strict=True)
    for stage in range(4):
        if stage > 0:
            yield from _at_stage(zip(layout.downsample, downsample, strict=True), stage)
        parts = zip(layout.parts, PARTS, strict=True)
        yield from _at_stage(((layout.block + ours, block + theirs) for ours, theirs in parts if ours), stage)
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
    """Make rules that rename the first name of each pair to the second; of equal names the first pair counts."""
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
    return _compile((ours, theirs) for theirs, ours in [*_pairs(layout), *layout.write_also.items()])


@cache
def _outer_read_rules(layout_name: str) -> Rules:
    return _compile(_layout(layout_name).outer.items())


@cache
def _outer_write_rules(layout_name: str) -> Rules:
    return _compile((ours, theirs) for theirs, ours in _layout(layout_name).outer.items())


@cache
def _block_pattern(block: str, mark: str) -> re.Pattern:
    """Match the depthwise weight of any block: every file has some, and no two layouts call it the same."""
    name = re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(block + mark))
    return re.compile(rf"(.*\.)?{name}")
