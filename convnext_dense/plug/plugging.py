"""Replace the backbone of any mmdet or mmseg config by ConvNeXt, and rewire the modules that read its features.

The outputs of both backbones and of necks are measured on built modules; nothing is looked up by the name of a
backbone. The number and the order of the outputs stay the same, so ``start_level`` or ``num_outs`` of a neck keep their
meaning.
"""

import copy
import difflib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from convnext_dense.checkpoints.variants import get_variant
from convnext_dense.errors import UserError, first_line
from convnext_dense.models import ConvNeXt
from convnext_dense.plug.levels import ForeignOutputsError, Wiring, match_stages, measure_backbone
from convnext_dense.plug.rewiring import rewire_heads, rewire_necks

_OURS = "convnext_dense.ConvNeXt"
# ImageNet's mean and deviation times 255, in RGB, with which every ConvNeXt checkpoint was trained.
_MEAN = [123.675, 116.28, 103.53]
_STD = [58.395, 57.12, 57.375]
_PREFIXES: dict[str, dict[str, Any]] = {
    "convnext-": {},
    "convnextv2-": dict(use_grn=True, layer_scale_init_value=0.0),
    "dinov3-convnext-": {},
}
# What else another ConvNeXt of ours takes over.
_KEPT = ("drop_path_rate", "layer_scale_init_value", "output_norms", "frozen_stages", "with_cp", "contiguous_outputs")


def plug_backbone(
    cfg: Config,
    arch: str | Mapping[str, Any] = "tiny",
    weights: str | None = None,
    *,
    layer_decay: float | None = None,
    **backbone_kwargs: Any,
) -> Config:
    """Replace the backbone of a config by ConvNeXt.

    Args:
        cfg: Config of mmdet or mmseg; it is not changed. ``diff_configs`` shows how the result differs.
        arch: As for ``ConvNeXt``.
        weights: Source of the backbone's weights, see ``checkpoints.fetch``; None starts from random weights. The
            shared head of a C4 detector, ConvNeXt's last stage, starts from random weights either way.
        layer_decay: None keeps the optimizer. A rate in (0, 1] replaces it by AdamW with layer-wise learning rate
            decay.
        backbone_kwargs: Further arguments of ``ConvNeXt``; ``out_indices`` follows from the old backbone.

    Raises:
        UserError: A name is unknown (the message suggests the nearest one), or a part of the model cannot be rewired
            (the message names its place in the config).
    """
    get_variant(arch)
    _check_names(backbone_kwargs)
    plugged = copy.deepcopy(cfg)
    path = _find_owner(plugged.model)
    owner = _descend(plugged.model, path)
    place = ".".join(["model", *path, "backbone"])
    init_default_scope(plugged.get("default_scope", "mmengine"))
    _import_custom_modules(plugged)

    # The heads were written for backbones with contiguous outputs, and some rely on it.
    backbone = dict(type=_OURS, arch=arch, contiguous_outputs=True, **backbone_kwargs)
    if owner.backbone["type"] == _OURS:
        backbone = _take_over(owner.backbone, backbone)
    wiring = _replace_backbone(owner, backbone, place)
    _set_weights(owner, weights)

    wiring = rewire_necks(owner, wiring, place.removesuffix("backbone"))
    if not wiring.is_unchanged:
        rewire_heads(owner, wiring, place.removesuffix("backbone"), arch, backbone_kwargs)
    if backbone_kwargs.get("in_channels", 3) == 3:
        _set_normalisation(plugged.model, path)
    _set_optimizer(plugged, layer_decay)
    if plugged.get("load_from"):
        plugged.load_from = None  # weights of the old model
    return plugged


def has_weights(model: Mapping[str, Any]) -> bool:
    """Whether the config of a model starts from the weights of a trained backbone."""
    holders = [model, _descend(model, _find_owner(model)).backbone]
    return any((holder.get("init_cfg") or {}).get("type") == "Pretrained" for holder in holders)


def parse_backbone(name: str) -> tuple[str, dict[str, Any]]:
    """Split a name such as ``convnext-tiny`` or ``dinov3-convnext-tiny`` into ``arch`` and arguments of ``ConvNeXt``.

    Raises:
        UserError: The name has another form; the message suggests the nearest one.
    """
    for prefix, kwargs in _PREFIXES.items():
        if name.startswith(prefix):
            arch = name.removeprefix(prefix)
            get_variant(arch)
            return arch, dict(kwargs)
    families = [prefix.removesuffix("-") for prefix in _PREFIXES]
    family = difflib.get_close_matches(name.rpartition("-")[0] or name, families, n=1, cutoff=0.0)[0]
    raise UserError(
        f"backbone '{name}' must be convnext-ARCH, convnextv2-ARCH or dinov3-convnext-ARCH. Did you mean {family}-...?"
    )


def _take_over(old: Mapping[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the new backbone with the arguments of an old one of ours that do not depend on the variant."""
    kept = {key: old[key] for key in _KEPT if key in old}
    if not kept.get("layer_scale_init_value"):
        kept.pop("layer_scale_init_value", None)  # V2's 0 means none
    init_cfg = old.get("init_cfg")
    if init_cfg and init_cfg.get("type") != "Pretrained":
        kept["init_cfg"] = init_cfg
    return {**kept, **{key: value for key, value in new.items() if key != "contiguous_outputs"}}


def _set_weights(owner: Any, weights: str | None) -> None:
    """Set the source of the backbone's weights; classifiers of ours have it in their own ``init_cfg``."""
    if (owner.get("init_cfg") or {}).get("type") == "Pretrained" and owner["type"].endswith("ImageClassifier"):
        owner.init_cfg = None if weights is None else dict(type="Pretrained", checkpoint=weights)
    elif weights is not None:
        owner.backbone.init_cfg = dict(type="Pretrained", checkpoint=weights)


def _check_names(backbone_kwargs: Mapping[str, Any]) -> None:
    known = set(inspect.signature(ConvNeXt.__init__).parameters) - {"self", "arch", "out_indices", "init_cfg"}
    for name in backbone_kwargs:
        if name in ("type", "contiguous_outputs"):
            raise UserError(f"{name} is set by plug_backbone; leave it out.")
        if name == "out_indices":
            raise UserError("out_indices follows from what the config's necks and heads read; leave it out.")
        if name == "init_cfg":
            raise UserError("init_cfg is made from weights: plug_backbone(cfg, arch, weights=SOURCE).")
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise UserError(f"ConvNeXt has no argument '{name}'. Did you mean '{nearest}'?")


def _find_owner(model: Mapping[str, Any]) -> list[str]:
    """Return the keys that lead to the outermost dict with a backbone; of several, the one in ``detector`` wins."""
    level: list[tuple[list[str], Mapping[str, Any]]] = [([], model)]
    while level:
        for path, node in level:
            if isinstance(node.get("backbone"), Mapping) and "type" in node["backbone"]:
                return path
        level = [
            ([*path, key], child)
            for path, node in level
            for key, child in sorted(node.items(), key=lambda item: item[0] != "detector")
            if isinstance(child, Mapping)
        ]
    raise UserError("model has no backbone: there is no dict with a key 'backbone' in it.")


def _descend(node: Any, path: Sequence[str]) -> Any:
    for key in path:
        node = node[key]
    return node


def _import_custom_modules(cfg: Config) -> None:
    """Run ``custom_imports`` of the config, without mmpretrain if it is not installed."""
    custom = cfg.get("custom_imports")
    if not custom:
        return
    names = [custom["imports"]] if isinstance(custom["imports"], str) else list(custom["imports"])
    if importlib.util.find_spec("mmpretrain") is None:
        names = [name for name in names if name.split(".")[0] != "mmpretrain"]
    if names:
        custom["imports"] = names
        import_modules_from_strings(**custom)
    else:
        cfg.pop("custom_imports")


def _replace_backbone(owner: Any, backbone: dict[str, Any], place: str) -> Wiring:
    """Measure the old backbone, choose the stages that replace its outputs, and put the new backbone in its place."""
    name = owner.backbone["type"]
    old = {key: value for key, value in owner.backbone.items() if key != "frozen_stages"}
    if name in {"mmpretrain.ConvNeXt", "mmcls.ConvNeXt"}:
        old["type"] = backbone["type"]  # takes the same arguments
    try:
        before = measure_backbone(old)
    except ForeignOutputsError as error:
        raise UserError(
            f"{place} ({name}) cannot be replaced: {error}, so that only heads made for it can read them."
        ) from error
    except Exception as error:
        raise UserError(
            f"{place} ({name}) cannot be replaced: what it returns is unknown, because it does not run as it stands: "
            f"{type(error).__name__}: {first_line(error)}."
        ) from error
    stages = match_stages(before.strides)
    backbone["out_indices"] = tuple(sorted(set(stages)))
    after = measure_backbone(backbone)
    wiring = Wiring(before, after, tuple(backbone["out_indices"].index(stage) for stage in stages))
    is_segmenter = "decode_head" in owner
    if not is_segmenter and tuple(after.strides[i] for i in wiring.places) != before.strides:
        raise UserError(
            f"{place} ({name}) cannot be replaced: the detector reads maps of the strides {list(before.strides)}, and "
            "ConvNeXt has one map each of the strides 4, 8, 16 and 32."
        )
    owner.backbone = backbone
    owner.pop("pretrained", None)
    return wiring


def _set_normalisation(model: Any, path: Sequence[str]) -> None:
    """Set mean, deviation and channel order in every data preprocessor on the path to the backbone."""
    preprocessors = []
    for depth in range(len(path) + 1):
        node = _descend(model, path[:depth]).get("data_preprocessor")
        while isinstance(node, Mapping) and isinstance(node.get("data_preprocessor"), Mapping):
            node = node["data_preprocessor"]  # semi-supervised: the outer one is for the branches
        if isinstance(node, Mapping):
            preprocessors.append(node)
    for node in preprocessors:
        order = "to_rgb" if "to_rgb" in node else "bgr_to_rgb"  # the former is for re-identification
        node.update({"mean": list(_MEAN), "std": list(_STD), order: True})  # type: ignore[attr-defined]
        node.pop("rgb_to_bgr", None)  # type: ignore[attr-defined]


def _set_optimizer(cfg: Config, layer_decay: float | None) -> None:
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None:
        return
    decay_type = "layer_wise"
    if str(wrapper.get("constructor", "")).split(".")[-1].startswith(("LearningRateDecay", "LayerDecay")):
        # mmdet's and mmseg's own constructors read the number of layers of the old backbone from the config.
        old = wrapper.paramwise_cfg
        layer_decay = layer_decay or old.get(
            "decay_rate", old.get("layer_decay_rate")
        )  # the latter is the name in BEiT configs
        decay_type = old.get("decay_type", decay_type)
        optimizer = wrapper.optimizer
    else:
        # arXiv 2201.03545, appendix A.3: learning rate 1e-4 for Mask R-CNN and UperNet, both with a batch of 16
        optimizer = dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    if layer_decay is None:
        return
    wrapper.optimizer = optimizer
    wrapper.constructor = "convnext_dense.LayerDecayOptimWrapperConstructor"
    wrapper.paramwise_cfg = dict(decay_rate=layer_decay, decay_type=decay_type)
