"""Set the arguments of mmdet's and mmseg's necks and heads to the feature maps that they now read."""

import copy
from collections.abc import Mapping
from typing import Any

from convnext_dense.errors import UserError, first_line
from convnext_dense.plug.levels import Wiring, measure_neck, measure_shared_head

# Necks that make a pyramid out of maps of one size; a hierarchical backbone does not need them.
_PYRAMID_MAKERS = {"Feature2Pyramid"}


def rewire_necks(owner: Any, wiring: Wiring, place: str) -> Wiring:
    """Rewire the neck, or each neck of a list, and return the wiring that the heads read."""
    neck = owner.get("neck")
    if neck is None:
        return wiring
    if isinstance(neck, Mapping) and neck["type"].split(".")[-1] in _PYRAMID_MAKERS:
        owner.pop("neck")
        return wiring
    chain = neck if isinstance(neck, list | tuple) else [neck]
    for position, node in enumerate(chain):
        if wiring.is_unchanged:
            break
        node_place = f"{place}neck.{position}" if chain is neck else f"{place}neck"
        if not wiring.in_order:
            raise UserError(
                f"{node_place} ({node['type']}) cannot be rewired: it reads several maps of a stride that ConvNeXt has "
                "only once."
            )
        wiring = _rewire_neck(node, wiring, node_place)
    return wiring


def _rewire_neck(neck: Any, wiring: Wiring, place: str) -> Wiring:
    old = copy.deepcopy(neck)
    for key, value in list(neck.items()):
        if isinstance(value, Mapping):
            _rewire_lists(value, wiring)
        elif key.endswith("in_channels") and isinstance(value, int):
            neck[key] = _new_width(value, wiring, f"{place}.{key}")
        elif key == "scales" and len(value) == len(wiring.before.strides):  # factors that resize maps to given strides
            ratios = zip(value, wiring.after.strides, wiring.before.strides, strict=True)
            neck[key] = [scale * new / old for scale, new, old in ratios]
    _rewire_lists(neck, wiring)

    try:
        before = measure_neck(old, wiring.before)
    except Exception:  # an operator missing on this machine, or a window larger than the maps
        if not any(key.endswith("channels") for key in old):
            return wiring  # without an argument for channels, it returns those that it reads
        # With such an argument, the outputs of a neck rarely depend on its inputs.
        return Wiring(wiring.before, wiring.before, wiring.places)
    try:
        after = measure_neck(neck, wiring.after)
    except Exception as error:
        raise UserError(
            f"{place} ({neck['type']}) cannot be rewired from channels {list(wiring.before.channels)} to "
            f"{wiring.channels}: {type(error).__name__}: {first_line(error)}."
        ) from error
    return Wiring(before, after, tuple(range(len(after.channels))))


def _rewire_lists(node: Any, wiring: Wiring) -> None:
    """Replace lists of the old channels, be they whole, reversed, without the first levels, or with extra levels."""
    before, after = list(wiring.before.channels), wiring.channels
    for key, value in list(node.items()):
        if isinstance(value, Mapping):
            _rewire_lists(value, wiring)
        elif key.endswith("channels") and isinstance(value, list | tuple) and value:
            values, kind = list(value), type(value)  # some necks require a tuple
            if values == before[::-1] and values != before:
                node[key] = kind(after[::-1])
            elif values == before[-len(values) :]:
                node[key] = kind(after[-len(values) :])
            elif values[: len(before)] == before:
                node[key] = kind(after + values[len(before) :])


def _new_width(width: int, wiring: Wiring, place: str) -> int:
    """Return the new number of channels for that of one level or the sum of all levels."""
    before = wiring.before.channels
    new = {wiring.channels[i] for i, channels in enumerate(before) if channels == width}
    if len(new) == 1:
        return new.pop()
    if not new and width == sum(before):
        return sum(wiring.channels)
    reason = (
        "stands for several maps, which now have different numbers of channels"
        if new
        else "is not a number of channels that the old backbone returned"
    )
    raise UserError(f"{place}={width} cannot be rewired: it {reason} ({list(before)} -> {wiring.channels}).")


def rewire_heads(owner: Any, wiring: Wiring, place: str, arch: Any, backbone_kwargs: Mapping[str, Any]) -> None:
    """Rewire all heads of a model."""
    for name, head in owner.items():
        if name in {"decode_head", "auxiliary_head"}:
            several = isinstance(head, list | tuple)
            for position, node in enumerate(head if several else [head]):
                _rewire_segmentation_head(node, wiring, f"{place}{name}.{position}" if several else f"{place}{name}")
        elif name == "roi_head":
            _rewire_roi_head(head, wiring, f"{place}{name}", arch, backbone_kwargs)
        elif (name == "head" or name.endswith("_head")) and isinstance(head, Mapping) and "teacher" not in name:
            _rewire_head(head, wiring, f"{place}{name}")


def _rewire_head(head: Any, wiring: Wiring, place: str) -> None:
    width = head.get("in_channels")
    if isinstance(width, int):
        head["in_channels"] = _new_width(width, wiring, f"{place}.in_channels")
    elif width is not None:
        old = list(width)
        _rewire_lists(head, wiring)
        if list(head["in_channels"]) == old:
            raise UserError(
                f"{place}.in_channels={old} cannot be rewired: the maps had the channels "
                f"{list(wiring.before.channels)}."
            )


def _rewire_segmentation_head(head: Any, wiring: Wiring, place: str) -> None:
    """Rewire a head of mmseg by ``in_index``, the indices of the maps that it reads; heads can be nested (K-Net)."""
    for key, child in list(head.items()):
        if isinstance(child, Mapping) and "in_index" in child:
            _rewire_segmentation_head(child, wiring, f"{place}.{key}")
    if "c1_in_channels" in head:  # DeepLabV3+ also reads the first map
        head["c1_in_channels"] = wiring.channels[0]
    width = head.get("in_channels")
    if width is None:
        return
    index = head.get("in_index")
    if index is None and not isinstance(width, int):
        _rewire_head(head, wiring, place)
        return
    index = -1 if index is None else index  # mmseg's default
    indices = [index] if isinstance(index, int) else list(index)
    widths = [width] if isinstance(width, int) else list(width)
    old = [wiring.before.channels[i] for i in indices]
    if widths != old:
        raise UserError(f"{place}.in_channels={width} cannot be rewired: its maps {index} had the channels {old}.")
    new = [wiring.channels[i] for i in indices]
    if head.get("num_convs") == 0 and head.get("channels") == width:  # mmseg's FCN head without its own layers
        head["channels"] = new[0]
    head["in_channels"] = new[0] if isinstance(width, int) else new
    if not wiring.in_order:
        places = [wiring.places[i] for i in indices]
        head["in_index"] = places[0] if isinstance(index, int) else places


def _rewire_roi_head(roi_head: Any, wiring: Wiring, place: str, arch: Any, backbone_kwargs: Mapping[str, Any]) -> None:
    """Rewire the extractors of regions from the backbone's map, and the heads after them."""
    for key in ("bbox_roi_extractor", "mask_roi_extractor"):
        if isinstance(roi_head.get(key), Mapping):
            width = roi_head[key]["out_channels"]
            roi_head[key]["out_channels"] = _new_width(width, wiring, f"{place}.{key}.out_channels")
    if roi_head.get("shared_head") is not None:
        wiring = _replace_shared_head(roi_head, wiring, f"{place}.shared_head", arch, backbone_kwargs)
    for key in ("bbox_head", "mask_head"):
        heads = roi_head.get(key)
        for head in heads if isinstance(heads, list | tuple) else [heads] if heads else []:
            _rewire_head(head, wiring, f"{place}.{key}")


def _replace_shared_head(
    roi_head: Any, wiring: Wiring, place: str, arch: Any, backbone_kwargs: Mapping[str, Any]
) -> Wiring:
    """Replace the shared head of a C4 detector, the old backbone's last stage, by that of ConvNeXt."""
    if len(wiring.after.channels) != 1 or wiring.after.strides != (16,):
        raise UserError(
            f"{place} cannot be rewired: ConvNeXt's last stage can replace it only on the map of stride 16."
        )
    names = ("drop_path_rate", "layer_scale_init_value", "use_grn")
    kwargs = {name: backbone_kwargs[name] for name in names if name in backbone_kwargs}
    stage = dict(type="convnext_dense.LastStage", arch=arch, **kwargs)
    before = measure_shared_head(roi_head["shared_head"], wiring.before)
    after = measure_shared_head(stage, wiring.after)
    roi_head["shared_head"] = stage
    return Wiring(before, after, (0,))
