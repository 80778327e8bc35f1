"""Describe one config: sizes by part, feature maps, memory, learning rates, recipe, published values."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from convnext_dense.config.reading import read_config
from convnext_dense.description.counting import image_on_meta
from convnext_dense.description.dense import build_on_meta, macs_by_part, parameters_by_part, saved_bytes_by_part
from convnext_dense.description.markdown import format_difference, format_table
from convnext_dense.description.published import read_published
from convnext_dense.errors import UserError
from convnext_dense.registry import OPTIM_WRAPPER_CONSTRUCTORS
from convnext_dense.shipped import CONFIGS, find_config

_ROAD = "configs/classification/roadmap_1k.py"


def describe_config(
    config: str | os.PathLike,
    *,
    options: Mapping[str, Any] | None = None,
    change: Callable[[Config], Config] | None = None,
    image_size: tuple[int, int] | None = None,
) -> str:
    """Describe a config.

    Args:
        config: Path or name of the config.
        options: See ``read_config``.
        change: See ``read_config``.
        image_size: (height, width) for MACs and feature maps; by default the papers' size for the task.

    Raises:
        UserError: The config cannot be read or has no backbone.
    """
    cfg = read_config(config, options, change)
    if "backbone" not in cfg.model:
        raise UserError(f"Config {config} has no model.backbone to describe.")
    model = build_on_meta(cfg)
    test_size = image_size or published_image_size(cfg)
    train_size = training_size(cfg)
    return "\n\n".join(
        [
            f"{config}: {cfg.model.type} on {cfg.model.backbone.type}",
            _sizes(model, test_size, train_size),
            _features(model, test_size),
            _learning_rates(cfg, model),
            "Recipe\n" + "\n".join(f"- {line}" for line in recipe(cfg)),
            _published(cfg, config, model, test_size),
        ]
    )


def published_image_size(cfg: Config) -> tuple[int, int]:
    """Return the (height, width) at which the papers count FLOPs.

    This is 1280 x 800 for detection, or the size to which a detector pads every image; four crops side by side for
    segmentation, and one crop for classification.
    """
    if cfg.get("default_scope") == "mmdet":
        return _padded_size(cfg) or (800, 1280)
    height, width = training_size(cfg)
    return (height, 4 * height) if cfg.get("default_scope") == "mmseg" else (height, width)


def training_size(cfg: Config) -> tuple[int, int]:
    """Return the (height, width) of training images: the crop, the padded size, or 1280 x 800 if sizes vary."""
    crop = cfg.model.get("data_preprocessor", {}).get("size")  # of a segmenter
    if crop:
        return tuple(crop)
    crop = cfg.train_dataloader.dataset.get("transform", {}).get("input_size")  # of a classifier
    return (crop, crop) if crop else _padded_size(cfg) or (800, 1280)


def _padded_size(cfg: Config) -> tuple[int, int] | None:
    """Return the (height, width) to which a detector's test pipeline pads every image, if it does."""
    steps = cfg.get("test_dataloader", {}).get("dataset", {}).get("pipeline", [])
    sizes = [step.size for step in steps if str(step.get("type")).endswith("Pad") and step.get("size")]
    return (sizes[0][1], sizes[0][0]) if sizes else None  # mmcv's Pad takes (width, height)


def recipe(cfg: Config) -> list[str]:
    """Return how a config trains, one fact per line."""
    wrapper, loader = cfg.optim_wrapper, cfg.train_dataloader
    optimizer = dict(wrapper.optimizer)
    batch = cfg.get("effective_batch") or cfg.get("auto_scale_lr", {}).get("base_batch_size")
    lines = [
        f"{optimizer.pop('type')}: " + ", ".join(f"{key} {value}" for key, value in optimizer.items()),
        f"precision: {'mixed' if wrapper.type == 'AmpOptimWrapper' else 'float32'}",
        f"length: {cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters'))} "
        f"{'epochs' if 'max_epochs' in cfg.train_cfg else 'iterations'}",
        "schedule: " + "; ".join(_scheduler(dict(step)) for step in cfg.param_scheduler),
        f"batch: {loader.batch_size} images per GPU, learning rate for {batch or '?'} per step",
        f"drop path {cfg.model.backbone.get('drop_path_rate', 0.0)}, layer scale from "
        f"{cfg.model.backbone.get('layer_scale_init_value', 'the default of the backbone')}",
    ]
    weights = (cfg.model.backbone.get("init_cfg") or cfg.model.get("init_cfg") or {}).get("checkpoint")
    return [*lines, f"weights: {weights or cfg.get('load_from') or 'random'}"]


def _scheduler(step: dict[str, Any]) -> str:
    return f"{step.pop('type')}({', '.join(f'{key}={value}' for key, value in step.items())})"


def _sizes(model: nn.Module, test_size: tuple[int, int], train_size: tuple[int, int]) -> str:
    params, macs = parameters_by_part(model), macs_by_part(model, test_size)
    kept = saved_bytes_by_part(model, train_size)
    # Heads on proposals have other names among the model's children than among the parts that are run.
    names = [*params, *(name for name in (*macs, *kept) if name not in params)]
    rows = [
        [
            name,
            f"{params[name] / 1e6:.2f}" if name in params else "-",
            f"{macs[name] / 1e9:.2f}" if name in macs else "-",
            f"{kept[name] / 2**20:.0f}" if name in kept else "-",
        ]
        for name in names
    ]
    rows.append(
        ["total", f"{sum(params.values()) / 1e6:.2f}", f"{sum(macs.values()) / 1e9:.2f}", f"{_mib(kept)}"],
    )
    header = ["part", "params (M)", f"GMACs {test_size[1]} x {test_size[0]}", "activations (MiB)"]
    return (
        f"{format_table(header, rows)}\n"
        f"Activations: what autograd saves for the backward pass of one {train_size[1]} x {train_size[0]} image in "
        "float32, without heads on proposals and denoising queries; counted by saved-tensor hooks on the meta device. "
        "A part without MACs is not counted, and is not in the total."
    )


def _mib(kept: Mapping[str, int]) -> str:
    return f"{sum(kept.values()) / 2**20:.0f}"


def _features(model: Any, image_size: tuple[int, int]) -> str:
    with torch.no_grad():
        features = model.backbone(image_on_meta(image_size, getattr(model.backbone, "in_channels", 3)))
    levels = getattr(model.backbone, "out_indices", range(len(features)))
    rows = [
        [str(level), str(image_size[0] // feature.shape[2]), " x ".join(map(str, feature.shape[1:]))]
        for level, feature in zip(levels, features, strict=True)
    ]
    return format_table(["feature map", "stride", "channels x height x width"], rows)


def _learning_rates(cfg: Config, model: nn.Module) -> str:
    """Return the learning rates of the parameter groups that the config's constructor makes."""
    wrapper = cfg.optim_wrapper
    kind = wrapper.get("constructor", "DefaultOptimWrapperConstructor")
    settings = dict(optim_wrapper_cfg=dict(type="OptimWrapper", optimizer=wrapper.optimizer))
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(type=kind, paramwise_cfg=dict(wrapper.get("paramwise_cfg") or {}), **settings)
    )
    if hasattr(constructor, "summary"):
        return constructor.summary(model)
    groups: list[dict[str, Any]] = []
    constructor.add_params(groups, model)
    return f"Learning rates: groups of {kind}\n" + format_table(
        ["learning rate", "weight decay", "tensors", "params (M)"], _distinct_groups(groups, wrapper.optimizer)
    )


def _distinct_groups(groups: Iterable[Mapping[str, Any]], optimizer: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for every pair of learning rate and weight decay of an optimizer's parameters that learn."""
    found: dict[tuple[float, float], list[int]] = {}
    for group in groups:
        key = (group.get("lr", optimizer["lr"]), group.get("weight_decay", optimizer.get("weight_decay", 0.0)))
        found.setdefault(key, []).extend(param.numel() for param in group["params"] if param.requires_grad)
    return [
        [f"{lr:g}", f"{decay:g}", str(len(sizes)), f"{sum(sizes) / 1e6:.2f}"]
        for (lr, decay), sizes in sorted(found.items())
        if sizes
    ]


def _published(cfg: Config, config: str | os.PathLike, model: nn.Module, image_size: tuple[int, int]) -> str:
    published = read_published()
    file, folder = find_config(config).resolve(), CONFIGS.resolve()
    name = f"configs/{file.relative_to(folder).as_posix()}" if file.is_relative_to(folder) else ""
    facts = next((entry for key, entry in _entries("", published) if name in (key, entry.get("config"))), None)
    if name == _ROAD:
        backbone = cfg.model.backbone
        facts = published["roadmap"][backbone.regime].get(backbone.step)
    if facts is None:
        return "Published: nothing for this config"
    params = sum(parameters_by_part(model).values()) / 1e6
    gmacs = sum(macs_by_part(model, image_size).values()) / 1e9
    gflops = facts.get("gflops_1280x800", facts.get("gflops"))
    rows = [
        [what, f"{computed:.2f}", f"{value}", format_difference(computed, value)]
        for what, computed, value in (("params (M)", params, facts.get("params_M")), ("GFLOPs", gmacs, gflops))
        if value and (what != "GFLOPs" or image_size == published_image_size(cfg))
    ]
    kinds = ("box_", "mask_", "mIoU", "top")
    results = ", ".join(f"{key} {value}" for key, value in facts.items() if key.startswith(kinds))
    table = format_table(["published", "computed", "published value", "difference"], rows) if rows else ""
    return "\n".join(filter(None, [table, f"Published result: {results}" if results else ""])) or "Published: no size"


def _entries(key: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of the published values, at any depth, with its key."""
    if isinstance(node, dict):
        yield key, node
        for name, child in node.items():
            yield from _entries(name, child)
