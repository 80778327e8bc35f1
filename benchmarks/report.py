"""Writes the tables and the chart of docs/performance.md from the results in benchmarks/results.

python -m benchmarks.report
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, CHART = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.png"
BEGIN, END = "<!-- made by python -m benchmarks.report -->", "<!-- end -->"
OURS, OFFICIAL_ORDER = "convnext_dense", "official order"
PEERS = (OFFICIAL_ORDER, "timm", "torchvision", "transformers")
WORK = {"forward": "forward", "training": "forward + backward", "optimizer": "training step", "inference": "inference"}


def main() -> None:
    """Replace the text between the two markers in the page, and draw the chart."""
    results = [result for path in sorted(RESULTS.glob("speed_*.json")) for result in json.loads(path.read_text())]
    page = PAGE.read_text()
    tables = f"{BEGIN}\n{write_tables(results)}\n{END}"
    PAGE.write_text(re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: tables, page, flags=re.DOTALL))
    draw_chart(results, CHART)


def best_of(times: dict[str, dict[str, float]]) -> dict[tuple[str, str], tuple[str, dict[str, float]]]:
    """Map each (model, kind) to the faster of its two layouts, (layout, numbers)."""
    best: dict[tuple[str, str], tuple[str, dict[str, float]]] = {}
    for way, numbers in times.items():
        model, layout, kind = way.split(", ")
        if (model, kind) not in best or clock(numbers) < clock(best[model, kind][1]):
            best[model, kind] = layout, numbers
    return best


def clock(numbers: dict[str, float]) -> float:
    """Return median milliseconds: of processor time if available, which other processes hardly affect."""
    return numbers.get("processor_ms", numbers["ms"])


def write_tables(results: list[dict[str, Any]]) -> str:
    """Return one Markdown table per kind of result."""
    parts = [_backbone_table(results), _block_table(results), _memory_table(results)]
    parts += [_sizes_table(results), _phases_tables(results), _setting_lines(results)]
    return "\n\n".join(part for part in parts if part)


def rows_of(results: list[dict[str, Any]]) -> list[tuple[str, str, str, float, float]]:
    """Return, for each whole-model measurement: what was measured and where, peer, layout, ms of the peer and of ours.

    Ours is of the same kind as the peer (such as compiled) if that was measured.
    """
    rows = []
    for result in results:
        for mode, times in result.get("times", {}).items():
            best = best_of(times)
            of_ours = {kind: numbers for (model, kind), (_, numbers) in best.items() if model == OURS}
            what = f"{result['task']} {result['arch']}, {_size(result)}, {result['precision']}, {WORK[mode]}"
            what = f"{what} ({_processor(result)})"
            for (model, kind), (layout, numbers) in best.items():
                if model != OURS:
                    ours = of_ours.get(kind, min(of_ours.values(), key=clock))
                    rows.append((what, f"{model}, {kind}", layout, clock(numbers), clock(ours)))
    return rows


def draw_chart(results: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel per processor with the best peer's time relative to ours, for every measurement and kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: dict[str, dict[str, tuple[float, str]]] = {}
    for what, peer, _, theirs, ours in rows_of(results):
        name, _, kind = peer.rpartition(", ")
        if name not in PEERS:
            continue
        measured, _, processor = what.removesuffix(")").rpartition(" (")
        best = panels.setdefault(processor, {})
        label = measured if kind == "eager" else f"{measured}, {kind}"
        best[label] = min(best.get(label, (theirs / ours, name)), (theirs / ours, name))
    if not panels:
        return
    figure, all_axes = pyplot.subplots(
        len(panels), squeeze=False, sharex=True, layout="constrained", gridspec_kw={"hspace": 0.03},
        height_ratios=[len(best) + 1.5 for best in panels.values()],
        figsize=(9, sum(0.21 * len(best) + 0.5 for best in panels.values())),
    )  # fmt: skip
    for axes, (processor, best) in zip(all_axes[:, 0], panels.items(), strict=True):
        bars = axes.barh(range(len(best)), [ratio for ratio, _ in best.values()], color="tab:blue")
        axes.bar_label(bars, [f"{ratio:.2f} {name}" for ratio, name in best.values()], fontsize=7, padding=2)
        axes.set_yticks(range(len(best)), list(best), fontsize=7)
        axes.invert_yaxis()
        axes.axvline(1, color="black", linewidth=1)
        axes.set_title(processor, fontsize=9, loc="left")
        axes.margins(y=0.01)
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.5, 64)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("time of the best peer / ours (above 1: ours is faster)", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) if rows else ""


def _processor(result: dict[str, Any]) -> str:
    setting = result["setting"]
    shows_threads = setting["device"] == "cpu" and setting["threads"] > 1
    return setting["hardware"].rpartition("of memory, ")[2] + (
        f", {setting['threads']} threads" if shows_threads else ""
    )


def _milliseconds(number: float) -> str:
    return f"{number:.1f}" if number < 100 else f"{number:.0f}"


def _size(result: dict[str, Any]) -> str:
    return "x".join(map(str, result["size"]))


def _backbone_table(results: list[dict[str, Any]]) -> str:
    rows = [
        [what, peer, layout, _milliseconds(theirs), _milliseconds(ours), f"{theirs / ours:.2f}"]
        for what, peer, layout, theirs, ours in rows_of(results)
    ]
    return _table(["measured", "peer", "its faster layout", "peer, ms", "ours, ms", "peer / ours"], rows)


def _block_table(results: list[dict[str, Any]]) -> str:
    rows = []
    for result in results:
        for stage in result["stages"] if result["task"] == "block" else []:
            for mode, times in stage["times"].items():
                best = {model: clock(numbers) for (model, _), (_, numbers) in best_of(times).items()}
                theirs = best[OFFICIAL_ORDER]
                size = "x".join(map(str, stage["map"]))
                name = f"{size}, {result['precision']}, {WORK[mode]} ({_processor(result)})"
                rows.append([name, f"{theirs:.1f}", f"{best[OURS]:.1f}", f"{theirs / best[OURS]:.2f}"])
    return _table(["one block", "official order, ms", "ours, ms", "official / ours"], rows)


def _memory_table(results: list[dict[str, Any]]) -> str:
    rows = [
        [f"{result['arch']}, {_size(result)}, {result['precision']} ({_processor(result)})", model, f"{saved:.0f}"]
        for result in results
        for model, saved in result.get("saved_activations_mb", {}).items()
    ]
    return _table(["activations kept for the backward pass", "backbone", "MB"], rows)


def _sizes_table(results: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{result['arch']}, {kind}",
            str(result["size"][1]),
            f"{numbers['seconds']:.0f}",
            f"{numbers['first_step_seconds']:.0f}",
            str(numbers["graphs_after_first_step"]),
            f"{numbers['relative_to_one_size']:.2f}",
        ]
        for result in results
        for kind, numbers in result.get("runs", {}).items()
    ]
    head = [
        "backbone",
        "sizes",
        "s in all",
        "s of the first step",
        "graphs compiled later",
        "time / same pixels, one size",
    ]
    return _table(head, rows)


def _phases_tables(results: list[dict[str, Any]]) -> str:
    tables = []
    for result in results:
        for phase, times in result.get("phases", {}).items():
            total = sum(times.values())
            rows = [[name, f"{value:.1f}", f"{value / total:.0%}"] for name, value in times.items()]
            tables.append(_table([f"{phase}, {result['arch']} demo", "ms per image", "share"], rows))
    return "\n\n".join(tables)


def _setting_lines(results: list[dict[str, Any]]) -> str:
    lines = set()
    for result in results:
        setting = result["setting"]
        versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
        lines.add(f"- {setting['date']}: {setting['hardware']}, threads: {setting['threads']}; {versions}")
    return "\n".join(sorted(lines))


if __name__ == "__main__":
    main()
