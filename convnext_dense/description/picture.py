"""Draw the roadmap from ResNet to ConvNeXt: accuracy and MACs of every step, after figure 2 of arXiv 2201.03545."""

import os
from collections.abc import Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

# Headings in section 2 of the paper, and the steps under each.
_CHAPTERS = {
    "recipe": ("original", "enhanced_recipe"),
    "macro design": ("stage_ratio", "patchify_stem"),
    "ResNeXt": ("depthwise", "width"),
    "inverted bottleneck": ("inverted_bottleneck",),
    "large kernels": ("move_up_depthwise", "kernel_5", "kernel_7", "kernel_9", "kernel_11"),
    "micro design": ("gelu", "fewer_activations", "fewer_norms", "layer_norm", "separate_downsampling"),
}
_COLOURS = {"resnet50": "#2b6cb0", "resnet200": "#a0aec0"}
_NAMES = {"resnet50": "ResNet-50 to ConvNeXt-T", "resnet200": "ResNet-200 to ConvNeXt-B"}
_SWIN = {"resnet50": ("swin_t", "Swin-T"), "resnet200": ("swin_b", "Swin-B")}
_HALO = [withStroke(linewidth=3, foreground="white")]  # keeps numbers readable where lines cross them
_BAR = 0.38  # height of each of the two bars of a step; rows are 1 apart


def draw_roadmap(facts: Mapping[str, Any], gmacs: Mapping[str, Mapping[str, float]], path: str | os.PathLike) -> None:
    """Draw a picture 1200 pixels wide.

    Args:
        facts: The entry ``roadmap`` of the published values, which has the accuracies.
        gmacs: Computed GMACs at 224 x 224 by regime and step.
        path: File to write, a PNG.
    """
    steps = list(gmacs["resnet50"])
    with rc_context({"font.size": 12}):
        figure = Figure(figsize=(12, 9), dpi=100)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for offset, regime in ((-_BAR / 2, "resnet50"), (_BAR / 2, "resnet200")):
            _draw_accuracies(left, facts, regime, steps, offset)
            _draw_macs(right, facts, gmacs[regime], regime, offset)
        _shade_chapters((left, right), steps)
        left.set_yticks(range(len(steps)), [step.replace("_", " ") for step in steps])
        left.invert_yaxis()
        left.set_xlim(75, 85.2)
        left.set_xlabel("ImageNet-1K top-1 (%), as published; hatched: tried, not kept")
        right.set_xlim(0, 20)
        right.set_xlabel("GMACs at 224 x 224, computed")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False)
        figure.tight_layout(rect=(0, 0, 1, 0.96))
        figure.savefig(path, metadata={"Software": None})


def _draw_accuracies(axes: Any, facts: Mapping[str, Any], regime: str, steps: list[str], offset: float) -> None:
    rows = [facts[regime][step] for step in steps]
    positions = [row + offset for row in range(len(steps))]
    bars = axes.barh(
        positions,
        [row["top1"] - 70 for row in rows],
        height=_BAR,
        left=70,
        color=_COLOURS[regime],
        label=_NAMES[regime],
        xerr=[row["std"] or 0 for row in rows] if regime == "resnet50" else None,
        error_kw=dict(ecolor="#1a202c", elinewidth=1.2),
    )
    for bar, row, position in zip(bars, rows, positions, strict=True):
        if not row["adopted"]:
            bar.set(hatch="///", edgecolor="white")
        axes.text(row["top1"] + 0.22, position, f"{row['top1']:.2f}", va="center", fontsize=10, path_effects=_HALO)
    key, name = _SWIN[regime]
    axes.axvline(
        facts["references"][key]["top1"], color=_COLOURS[regime], linestyle="--", linewidth=1.5, label=name, zorder=0
    )


def _draw_macs(axes: Any, facts: Mapping[str, Any], gmacs: Mapping[str, float], regime: str, offset: float) -> None:
    positions = [row + offset for row in range(len(gmacs))]
    axes.plot(list(gmacs.values()), positions, "-", color=_COLOURS[regime], linewidth=1, zorder=1)
    axes.scatter(list(gmacs.values()), positions, marker="*", s=90, color=_COLOURS[regime], zorder=2)
    for value, position in zip(gmacs.values(), positions, strict=True):
        axes.text(value + 0.45, position, f"{value:.2f}", va="center", fontsize=10, path_effects=_HALO)
    key, _ = _SWIN[regime]
    axes.axvline(facts["references"][key]["gflops"], color=_COLOURS[regime], linestyle="--", linewidth=1.5, zorder=0)


def _shade_chapters(panels: tuple[Any, Any], steps: list[str]) -> None:
    for number, (name, members) in enumerate(_CHAPTERS.items()):
        first, last = steps.index(members[0]), steps.index(members[-1])
        for axes in panels:
            axes.axhspan(first - 0.5, last + 0.5, color="#edf2f7" if number % 2 else "white", zorder=-1)
            axes.set_ylim(-0.5, len(steps) - 0.5)
        panels[1].text(11, first - 0.4, name, ha="center", va="top", fontsize=10, style="italic", color="#4a5568")
