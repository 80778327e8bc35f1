"""A comparison of runs as sections of a page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from convnext_dense.reports import figures
from convnext_dense.reports.comparing import FEWEST_IMAGES, Run
from convnext_dense.reports.page import Section, number

_MAIN = ("mask AP", "box AP", "mIoU", "top-1")
_NUM_CURVES = 12
_CHANCE = "no more than chance would give"


def sections_of(comparison: Mapping[str, Any], runs: Sequence[Run]) -> list[Section]:
    """Return the sections of a page."""
    curves = [_curves(comparison, runs)] if comparison["task"] == "detection" else []
    return [
        Section("What stands out", points=list(findings(comparison))),
        _metrics(comparison),
        *_classes(comparison),
        *curves,
        _models(comparison),
    ]


def findings(comparison: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stands out, in words."""
    names = [run["name"] for run in comparison["runs"]]
    rows = {row["metric"]: row for row in comparison["metrics"]}
    row = next(rows[name] for name in _MAIN if name in rows)
    for name, change in zip(names[1:], row["differences"][1:], strict=True):
        if change is None:
            continue
        if comparison["images"] < FEWEST_IMAGES:
            yield f"Too few images to tell {name} from {names[0]}: {comparison['images']}, fewer than {FEWEST_IMAGES}."
        elif change["more_than_chance"]:
            way = "better" if change["value"] > 0 else "worse"
            yield f"{name} is {way} than {names[0]}: {row['metric']} {_signed(change)}, more than chance."
        else:
            yield (
                f"{name} and {names[0]} do not differ for certain: {row['metric']} {_signed(change)}, {_CHANCE} with "
                f"{comparison['images']:,} images."
            )


def _signed(change: Mapping[str, Any]) -> str:
    return f"{change['value']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"


def _metrics(comparison: Mapping[str, Any]) -> Section:
    names = [run["name"] for run in comparison["runs"]]
    rows = [[row["metric"], *map(_shown, row["values"]), *_changes(row)] for row in comparison["metrics"]]
    note = (
        f"With the middle 95 % of {comparison['samples']:,} samples of the {comparison['images']:,} images "
        "(bootstrap). A difference with a star is more than chance: its interval lies on one side of zero."
    )
    header = ["metric", *names, *(f"{name} - {names[0]}" for name in names[1:])]
    return Section("Metrics", note=note, header=header, rows=rows)


def _shown(value: Mapping[str, Any] | None) -> str:
    return "-" if value is None else f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _changes(row: Mapping[str, Any]) -> list[str]:
    shown = []
    for change in row["differences"][1:]:
        star = " *" if change and change["more_than_chance"] else ""
        shown.append("-" if change is None else _signed(change) + star)
    return shown


def _classes(comparison: Mapping[str, Any]) -> Iterator[Section]:
    names = [run["name"] for run in comparison["runs"]]
    header = ["class", *names, *(f"{name} - {names[0]}" for name in names[1:])]
    note = (
        "One in twenty classes differs more than chance by chance alone; of classes in fewer than "
        f"{FEWEST_IMAGES} images, no difference is told from chance."
    )
    for metric, rows in comparison["by_class"].items():
        cells = [
            [row["class"], *(number(value and value["value"]) for value in row["values"]), *_changes(row)]
            for row in rows
        ]
        known = [row for row in rows if all(value is not None for value in row["values"])]
        plot = figures.grouped_bars(
            metric,
            [row["class"] for row in known],
            {name: [row["values"][place]["value"] for row in known] for place, name in enumerate(names)},
            y=metric,
        )
        yield Section(f"Classes: {metric}", note=note, header=header, rows=cells, figures=[plot])


def _curves(comparison: Mapping[str, Any], runs: Sequence[Run]) -> Section:
    names = [run["name"] for run in comparison["runs"]]
    rows = next(iter(comparison["by_class"].values()))
    gaps = [max((abs(change["value"]) for change in row["differences"] if change), default=-1.0) for row in rows]
    plots = []
    for label in sorted(range(len(rows)), key=lambda label: -gaps[label])[:_NUM_CURVES]:
        name = rows[label]["class"]
        curves = [run.numbers["curves"][run.numbers["classes"].index(name)] for run in runs]
        across, up = figures.from_zero(curves)
        plots.append(figures.curves(name, names, across, up, x="recall", y="precision"))
    return Section("Precision and recall", note="Boxes at an IoU of 0.5, the classes that differ most.", figures=plots)


def _models(comparison: Mapping[str, Any]) -> Section:
    rows = [
        [
            run["name"],
            f"{run['parameters'] / 1e6:,.1f}",
            f"{run['processor_ms_per_image']:,.0f}",
            run["config"],
            run["checkpoint"],
        ]
        for run in comparison["runs"]
    ]
    header = ["run", "million parameters", "processor ms per image", "config", "checkpoint"]
    return Section("The models", header=header, rows=rows)
