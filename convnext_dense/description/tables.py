"""The papers' tables of sizes, with the computed value beside the published one and the difference in per cent.

Published values come from ``convnext_dense/description/published.json``, which gives the source of each.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from convnext_dense.checkpoints.licences import find_licence
from convnext_dense.config.reading import read_config
from convnext_dense.description.config_report import published_image_size
from convnext_dense.description.counting import count_macs, count_parameters, image_on_meta
from convnext_dense.description.dense import build_on_meta, macs_by_part
from convnext_dense.description.markdown import format_difference, format_table
from convnext_dense.description.published import read_published
from convnext_dense.models import ConvNeXt, IsotropicConvNeXt, RoadmapNet
from convnext_dense.models.roadmap import REGIMES, STEPS
from convnext_dense.shipped import shipped_name

NUM_CLASSES = 1000
_NOT_MEASURED = "not measured"
_COUNTED = "MACs are those of convolutions and linear layers; one MAC is one FLOP of the papers."


def build_table(name: str) -> str:
    """Return one of ``TABLES`` in Markdown, below a sentence about what is counted."""
    published = read_published()
    return TABLES[name](published)


def _read(config: str) -> Config:
    """Return a config of the published values, which name it as ``configs/...``."""
    return read_config(shipped_name(config))


def classifier_params(backbone: Any) -> float:
    """Return the millions of parameters of a backbone without output norms and the paper's head (LayerNorm, linear)."""
    channels = backbone.channels[-1]
    norm = 2 * channels if backbone.ends_with_norm else 0
    return (count_parameters(backbone) + norm + NUM_CLASSES * (channels + 1)) / 1e6


def classifier_gmacs(backbone: Any, image_size: int) -> float:
    """Return the GMACs of a backbone on the meta device and the paper's head, for a square image."""
    image = image_on_meta((image_size, image_size))
    return (count_macs(lambda: backbone(image)) + NUM_CLASSES * backbone.channels[-1]) / 1e9


def _archs_table(published: Mapping[str, Any]) -> str:
    rows = []
    for title, key, kwargs in (
        ("V1", "architectures_timm", {}),
        ("V1", "architectures", {}),
        ("V2", "architectures_v2", dict(use_grn=True, layer_scale_init_value=0.0)),
        ("isotropic", "architectures_isotropic", {}),
    ):
        for arch, facts in published[key].items():
            rows.append(_arch_row(f"{title} {arch}", _build_backbone(key, arch, facts, kwargs), facts))
    header = ["model", "params (M)", "published", "difference"]
    for size in (224, 384):
        header += [f"GMACs {size}", "published", "difference"]
    return (
        f"Whole classifiers with {NUM_CLASSES} classes. {_COUNTED} Atto to nano of V1 and small of V2 are timm's, "
        "whose counter adds five operations per value of a LayerNorm.\n\n"
        f"{format_table([*header, 'note'], rows)}"
    )


def _build_backbone(key: str, arch: str, facts: Mapping[str, Any], kwargs: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        if key == "architectures_isotropic":
            scale = facts["layer_scale_init"]
            return IsotropicConvNeXt(arch, layer_scale_init_value=scale, out_indices=(2,), output_norms="none").eval()
        return ConvNeXt(arch, output_norms="none", **kwargs).eval()


def _arch_row(title: str, backbone: nn.Module, facts: Mapping[str, Any]) -> list[str]:
    row, notes = [title], []
    params = classifier_params(backbone)
    printed = _printed_params(facts)
    row += [f"{params:.2f}", _text(printed), format_difference(params, printed)]
    if abs(params / printed - 1) > 0.005:
        notes.append(_rounding_note(params, printed))
    for size in (224, 384):
        gmacs = classifier_gmacs(backbone, size)
        value = facts.get(f"gflops_{size}")
        row += [f"{gmacs:.2f}", _text(value), format_difference(gmacs, value) if value else "-"]
        if value and abs(gmacs / value - 1) > 0.01:
            notes.append(_rounding_note(gmacs, value))
    if "gflops_512" in facts:
        gmacs = classifier_gmacs(backbone, 512)
        value = facts["gflops_512"]
        notes.append(f"at 512: {gmacs:.1f}, published {value}, {format_difference(gmacs, value)}")
    return [*row, "; ".join(notes)]


def _printed_params(facts: Mapping[str, Any]) -> float:
    """Return the published millions of parameters, with as many digits as are published."""
    return facts.get("params_M_finer", facts["params_M"])


def _rounding_note(computed: float, published: float) -> str:
    """Return a note on a difference: it is due to rounding, or to norms that the published value does not count."""
    digits = len(_text(published).partition(".")[2])
    if round(computed, digits) == published:
        return f"{computed:.2f} prints as {_text(published)}"
    return f"{computed:.3f} without norms"


def roadmap_gmacs() -> dict[str, dict[str, float]]:
    """Return the GMACs of the classifier of every step at 224 x 224, by regime and step."""
    return {regime: {step: _roadmap_size(step, regime)[1] for step in STEPS} for regime in REGIMES}


@functools.cache
def _roadmap_size(step: str, regime: str) -> tuple[float, float]:
    with torch.device("meta"):
        backbone = RoadmapNet(step, regime, output_norms="none").eval()
    return classifier_params(backbone), classifier_gmacs(backbone, 224)


def _roadmap_table(published: Mapping[str, Any]) -> str:
    facts = published["roadmap"]
    header = ["step", "top-1", "GMACs", "published", "difference", "params (M)", "note"]
    parts = [f"Whole classifiers with {NUM_CLASSES} classes at 224 x 224. {_COUNTED} Top-1 is the paper's, not ours."]
    for regime, goal, table in (("resnet50", "ConvNeXt-T", "table 10"), ("resnet200", "ConvNeXt-B", "table 11")):
        rows = []
        for step in STEPS:
            row = facts[regime][step]
            params, gmacs = _roadmap_size(step, regime)
            top1 = f"{row['top1']:.2f}" + (f" ± {row['std']:.2f}" if row["std"] else "")
            notes = [] if row["adopted"] else ["tried, not kept"]
            if step in facts["inconsistent"]["rows"].get(regime, ()):
                notes.append("the printed value follows from no definition in the paper")
            macs = [f"{gmacs:.2f}", f"{row['gflops']:.2f}", format_difference(round(gmacs, 2), row["gflops"])]
            rows.append([step, top1, *macs, f"{params:.2f}", "; ".join(notes)])
        parts.append(f"From {facts[regime]['original']['name']} to {goal} ({table}):\n\n{format_table(header, rows)}")
    return "\n\n".join(parts)


def _classification_table(published: Mapping[str, Any]) -> str:
    rows = []
    for config, facts in published["classification"]["models"].items():
        if "top1" not in facts:  # pre-training on ImageNet-22K, for which no result is published
            continue
        cfg, size = _read(config), (facts["size"], facts["size"])
        known = dict(facts, params_M=_printed_params(published["architectures"][facts["arch"]]))
        model = build_on_meta(cfg)
        params, gmacs = count_parameters(model) / 1e6, sum(macs_by_part(model, size).values()) / 1e9
        columns = _computed_columns(params, gmacs, known, "gflops")
        rows.append([Path(config).stem, *columns, f"{facts['top1']}", _recipe(cfg)])
    return (
        f"One image of 224 x 224, or of 384 x 384 where the name has it. {_COUNTED} Top-1 is the papers', not ours.\n\n"
        + format_table([*_DENSE_HEADER, "top-1", "recipe"], rows)
    )


def _detection_table(published: Mapping[str, Any]) -> str:
    rows = []
    for facts in _detectors(published):
        cfg = _read(facts["config"])
        result = f"{facts['box_AP']} / {facts.get('mask_AP', '-')}"
        columns = _computed_columns(*_dense_size(facts["config"])[:2], facts, "gflops_1280x800")
        rows.append([Path(facts["config"]).stem, *columns, result, _recipe(cfg)])
    return (
        f"One image of 1280 x 800, or of 640 x 640 for RTMDet. {_COUNTED} As mmdet 2.x counted: backbone, pyramid, "
        "proposal head, every box head on 1000 proposals and every mask head on 100; for DINO, its transformer without "
        "the sampling of deformable attention. AP is as published, not ours.\n\n"
        + format_table([*_DENSE_HEADER, "box / mask AP", "recipe"], rows)
    )


def _segmentation_table(published: Mapping[str, Any]) -> str:
    rows = []
    for facts in _segmenters(published):
        cfg = _read(facts["config"])
        single, multi = facts.get("mIoU_ss", "-"), facts.get("mIoU_ms_flip", facts.get("mIoU_ms", "-"))
        columns = _computed_columns(*_dense_size(facts["config"])[:2], facts, "gflops")
        rows.append([Path(facts["config"]).stem, *columns, f"{single} / {multi}", _recipe(cfg)])
    return (
        f"One image of 2048 x 512, or of 2560 x 640 where crops are 640. {_COUNTED} As mmseg 0.x counted: backbone and "
        "decode head, without the auxiliary head. mIoU (single scale / multi-scale) is the papers', not ours.\n\n"
        + format_table([*_DENSE_HEADER, "mIoU", "recipe"], rows)
    )


_DENSE_HEADER = ["config", "params (M)", "published", "difference", "GMACs", "published", "difference"]


@functools.cache
def _dense_size(config: str) -> tuple[float, float, tuple[int, int]]:
    """Return millions of parameters and GMACs of a config's model, and the (height, width) that these are for."""
    cfg = _read(config)
    size = published_image_size(cfg)
    for key in ("init_cfg", "drop_path_rate"):  # models that differ in these alone are counted once
        cfg.model.backbone.pop(key, None)
    return *_count(f"{cfg.get('default_scope')} {cfg.model}", cfg, size), size


_sizes: dict[tuple[str, tuple[int, int]], tuple[float, float]] = {}


def _count(model: str, cfg: Config, size: tuple[int, int]) -> tuple[float, float]:
    if (model, size) not in _sizes:
        built = build_on_meta(cfg)
        _sizes[model, size] = count_parameters(built) / 1e6, sum(macs_by_part(built, size).values()) / 1e9
    return _sizes[model, size]


def _with_configs(models: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return [facts for facts in models.values() if "config" in facts]


def _detectors(published: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what is published for every config of a detector."""
    v2 = published["dense_v2"]
    return [
        *published["coco"]["models"].values(),
        *published["dino"]["models"].values(),
        published["rtmdet"]["convnext_b"],
        *_with_configs(v2["mask_rcnn"]),
        v2["mask_rcnn_openmmlab"],
    ]


def _segmenters(published: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what is published for every config of a segmenter."""
    return [
        *published["ade20k"]["models"].values(),
        *_with_configs(published["dense_v2"]["upernet"]),
        *published["dinov3"]["linear"].values(),
        *published["dinov3"]["upernet"].values(),
    ]


def _models_table(published: Mapping[str, Any]) -> str:
    rows = []
    for facts in (*_detectors(published), *_segmenters(published)):
        cfg = _read(facts["config"])
        params, gmacs, size = _dense_size(facts["config"])
        memory = f"{facts['train_memory_GB']}" if "train_memory_GB" in facts else "-"
        sizes = [f"{params:.0f}", f"{gmacs:.0f}", f"{size[1]} x {size[0]}"]
        weights = (cfg.model.backbone.get("init_cfg") or {}).get("checkpoint", "")
        rows.append(
            [Path(facts["config"]).stem, *sizes, _result(facts), memory, _NOT_MEASURED, find_licence(weights, "")]
        )
    header = [
        "config",
        "params (M)",
        "GMACs",
        "image",
        "published",
        "memory (GB), OpenMMLab",
        "memory and time here",
        "weights",
    ]
    return (
        f"{_COUNTED} Published: box / mask AP on COCO, or mIoU on ADE20K with one scale / several. Memory is what "
        f"OpenMMLab reports per GPU for its own runs.\n\n{format_table(header, rows)}"
    )


def _peers_table(published: Mapping[str, Any]) -> str:
    rows = []
    for facts in published["comparison"]:
        sizes = [_text(facts.get(key)) for key in ("params_M", "gflops", "latency_T4_ms")]
        rows.append([facts["model"], facts["task"], *sizes, _result(facts), facts["source"]])
    header = ["model", "task", "params (M)", "GFLOPs", "ms on a T4", "published", "source"]
    return (
        "As published, by the given source; none of it was measured here. Latencies are with TensorRT and FP16, by "
        f"the protocol of each source.\n\n{format_table(header, rows)}"
    )


def _result(facts: Mapping[str, Any]) -> str:
    """Return the published result: box and mask AP, or mIoU with one scale and with several."""
    if "box_AP" in facts:
        return " / ".join(f"{facts[key]}" for key in ("box_AP", "mask_AP") if key in facts)
    values = (facts.get("mIoU_ss"), facts.get("mIoU_ms_flip", facts.get("mIoU_ms")))
    return "nothing" if values == (None, None) else " / ".join(_text(value) for value in values)


def _computed_columns(params: float, gmacs: float, facts: Mapping[str, Any], key: str) -> list[str]:
    known = facts.get("params_M")
    return [
        f"{params:.2f}",
        _text(known),
        format_difference(params, known) if known else "-",
        f"{gmacs:.1f}",
        _text(facts.get(key)),
        format_difference(gmacs, facts[key]) if key in facts else "-",
    ]


def _recipe(cfg: Any) -> str:
    """Return the hyperparameters that differ between configs of a task, in one line."""
    wrapper = cfg.optim_wrapper
    decay = (wrapper.get("paramwise_cfg") or {}).get("decay_rate", "-")
    drop_path = cfg.model.backbone.get("drop_path_rate", 0.0)
    return f"lr {wrapper.optimizer.lr:g}, decay {decay}, drop path {drop_path}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value}"


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "archs": _archs_table,
    "roadmap": _roadmap_table,
    "detection": _detection_table,
    "segmentation": _segmentation_table,
    "classification": _classification_table,
    "models": _models_table,
    "peers": _peers_table,
}
