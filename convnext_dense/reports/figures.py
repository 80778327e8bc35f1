"""Figures of a report, by Bokeh: they zoom, and say what is under the pointer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_WIDTH, _HEIGHT = 560, 340  # pixels
_BINS = 40
MAX_NAMES = 150  # of classes in one figure
_LEGEND: dict[str, Any] = dict(label_text_font_size="11px", ncols=4, margin=2, location="left", border_line_color=None)
_FEW_POINTS = 25  # of a curve, which are marked
_BLUE, _GREY = "#3366aa", "#999999"


def _figure(title: str, x: str, y: str, **options: Any) -> Any:
    from bokeh.plotting import figure

    plot = figure(
        title=title,
        x_axis_label=x,
        y_axis_label=y,
        **{"max_width": _WIDTH, "height": _HEIGHT, "tools": "pan,wheel_zoom,box_zoom,reset,save", **options},
        sizing_mode="stretch_width",
    )
    plot.toolbar.logo = None
    return plot


def from_zero(curves: Sequence[Mapping[str, Sequence[float]]]) -> tuple[list[list[float]], list[list[float]]]:
    """Return the recalls and the precisions of curves, which begin at a recall of 0."""
    recalls = [[0.0, *curve["recall"]] if curve["recall"] else [] for curve in curves]
    return recalls, [[*curve["precision"][:1], *curve["precision"]] for curve in curves]


def curves(
    title: str,
    names: Sequence[str],
    xs: Sequence[Sequence[float]],
    ys: Sequence[Sequence[float]],
    *,
    x: str,
    y: str,
) -> Any:
    """Draw one line per name; a few have a legend, and all say their names under the pointer."""
    from bokeh.models import HoverTool

    plot = _figure(title, x, y, x_range=(0, 1), y_range=(0, 1.02))
    colours = _colours(len(names))
    for name, across, up, colour in zip(names, xs, ys, colours, strict=True):
        legend = dict(legend_label=name) if len(names) <= 10 else {}
        plot.line(list(across), list(up), color=colour, line_width=2, alpha=0.8, name=name, **legend)
    plot.add_tools(HoverTool(tooltips=[("", "$name"), (x, "$x{0.000}"), (y, "$y{0.000}")]))
    if len(names) <= 10:
        plot.legend.click_policy = "hide"
        plot.legend.location = "bottom_left"
    return plot


def _colours(number: int) -> Sequence[str]:
    from bokeh.palettes import Category10_10, turbo

    return Category10_10[:number] if number <= 10 else turbo(number + 2)[1:-1]


def bars(title: str, names: Sequence[str], values: Sequence[float], *, y: str) -> Any:
    """Draw one bar per name, of more than ``MAX_NAMES`` the longest."""
    return grouped_bars(title, names, {y: values}, y=y)


def grouped_bars(title: str, names: Sequence[str], values: Mapping[str, Sequence[float]], *, y: str) -> Any:
    """Draw one bar per name and group, side by side; ``values`` has those of each group."""
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.models.annotations import Legend

    highest = np.max(np.array(list(values.values()), float).reshape(len(values), -1), axis=0)
    kept = np.sort(np.argsort(-highest, kind="stable")[:MAX_NAMES])
    if len(kept) < len(names):
        title = f"{title} ({len(kept)} of {len(names):,})"
    plot = _figure(title, "", y, x_range=(-0.6, max(len(kept), 1) - 0.4))
    width = 0.75 / len(values)
    if len(values) > 1:
        plot.add_layout(Legend(orientation="vertical"), "below")
    colours = [_BLUE] if len(values) == 1 else _colours(len(values))
    for group, (label, of_group) in enumerate(values.items()):
        at = np.arange(len(kept)) + (group - (len(values) - 1) / 2) * width
        chosen = dict(at=at, top=[of_group[place] for place in kept], name=[names[place] for place in kept])
        source = ColumnDataSource(chosen | dict(group=[label] * len(kept)))
        legend = {} if len(values) == 1 else dict(legend_label=label)
        plot.vbar("at", top="top", width=0.93 * width, source=source, color=colours[group], **legend)
    tips = [("", "@name"), *([("", "@group")] if len(values) > 1 else []), (y, "@top{0,0.[0000]}")]
    plot.add_tools(HoverTool(tooltips=tips))
    plot.y_range.start = 0
    plot.xaxis.ticker = list(range(len(kept)))
    plot.xaxis.major_label_overrides = {place: names[name] for place, name in enumerate(kept)}
    plot.xgrid.visible = False
    if len(kept) > 8:
        plot.xaxis.major_label_orientation = 1.0
    return plot


def histogram(title: str, values: np.ndarray, *, x: str, is_log: bool = False) -> Any:
    """Draw how often values occur, a bar for each of a few whole numbers; of sizes and ratios in equal factors."""
    from bokeh.models import HoverTool

    values = values[np.isfinite(values)]
    if is_log:
        values = values[values > 0]
    shown = np.log(values) if is_log else values
    is_whole = values.dtype.kind in "iu" and len(values) and np.ptp(values) < _BINS
    bins: Any = np.arange(values.min(), values.max() + 2) - 0.5 if is_whole else _BINS
    counts, edges = np.histogram(shown, bins=bins)
    edges = np.exp(edges) if is_log else edges
    plot = _figure(title, x, "number", x_axis_type="log" if is_log else "linear")
    plot.quad(left=edges[:-1], right=edges[1:], bottom=0, top=counts, color=_BLUE, line_color="white")
    plot.add_tools(HoverTool(tooltips=[(x, "@left{0.0} to @right{0.0}"), ("number", "@top")]))
    plot.y_range.start = 0
    return plot


def heat_map(title: str, names: Sequence[str], counts: np.ndarray, *, in_percent: bool = False) -> Any:
    """Draw a confusion matrix: rows are labelled classes, colours the shares of their rows.

    Args:
        title: Of the figure.
        names: Of the rows and columns.
        counts: Numbers of each pair. Of more than ``MAX_NAMES``, those with the most errors are drawn.
        in_percent: Whether shares are written instead of numbers.
    """
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.transform import linear_cmap

    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    kept = _with_most_errors(counts)
    shares = (counts / totals)[np.ix_(kept, kept)]
    names, counts = [names[place] for place in kept], counts[np.ix_(kept, kept)]
    number = len(names)
    rows, columns = np.divmod(np.arange(number**2), number)
    texts = [f"{100 * share:.0f}" if share >= 0.005 else "" for share in shares.ravel().tolist()]
    if not in_percent:
        texts = [str(count) if count else "" for count in counts.ravel().tolist()]
    # Names may occur twice; places do not.
    source = ColumnDataSource(
        dict(
            row=rows,
            column=columns,
            labelled=[names[place] for place in rows],
            found=[names[place] for place in columns],
            share=shares.ravel(),
            count=counts.ravel(),
            text=texts,
            ink=["white" if share > 0.5 else "black" for share in shares.ravel().tolist()],
        )
    )
    side = int(np.clip(60 + 45 * number, 420, 900))
    ranges = dict(x_range=(-0.5, number - 0.5), y_range=(number - 0.5, -0.5))
    plot = _figure(title, "found", "labelled", max_width=side + 80, height=side, **ranges)
    colours = linear_cmap("share", "Blues256", low=1, high=0)
    plot.rect("column", "row", width=1, height=1, source=source, fill_color=colours, line_color=None)
    if number <= 20:
        plot.text(
            "column", "row", text="text", text_color="ink", source=source, text_align="center", text_baseline="middle"
        )
    for axis in (plot.xaxis, plot.yaxis):
        axis.ticker = list(range(number))
        axis.major_label_overrides = dict(enumerate(names))
    plot.xaxis.major_label_orientation = 1.2
    tips = [("labelled", "@labelled"), ("found", "@found"), ("number", "@count"), ("of its row", "@share{0.0%}")]
    plot.add_tools(HoverTool(tooltips=tips))
    return plot


def _with_most_errors(counts: np.ndarray) -> np.ndarray:
    """Return the places of no more than ``MAX_NAMES`` classes, in their order."""
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    return np.sort(np.argsort(-wrong, kind="stable")[:MAX_NAMES])


def reliability(rows: Sequence[Mapping[str, float]]) -> Any:
    """Draw how many of the objects of a score are right."""
    from bokeh.models import ColumnDataSource, HoverTool

    plot = _figure("Calibration", "score", "precision", x_range=(0, 1), y_range=(0, 1.02))
    plot.line([0, 1], [0, 1], color=_GREY, line_dash="dashed")
    source = ColumnDataSource({key: [row[key] for row in rows] for key in ("score", "precision", "objects")})
    plot.line("score", "precision", source=source, color=_BLUE, line_width=2)
    points = plot.scatter("score", "precision", source=source, color=_BLUE, size=8)
    tips = [("score", "@score{0.00}"), ("precision", "@precision{0.00}"), ("objects", "@objects")]
    plot.add_tools(HoverTool(renderers=[points], tooltips=tips))
    return plot


def lines(
    title: str,
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    y: str,
    end: float,
    is_log: bool = False,
    epoch_length: float | None = None,
    starts: Sequence[float] = (),
) -> Any:
    """Draw curves over the iterations of a run, each with its name; a click on a name hides its curve.

    Args:
        title: The heading.
        curves: Name, iterations and values of each.
        y: What the values are.
        end: The last iteration to show.
        is_log: Whether to show them on a logarithmic scale.
        epoch_length: Iterations of an epoch, to say the epoch under the pointer.
        starts: Iterations after which the run was resumed.
    """
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.models.annotations import Legend, LegendItem, Span
    from bokeh.palettes import Category10, turbo

    scale = "log" if is_log else "linear"
    plot = _figure(title, "iteration", y, y_axis_type=scale, x_range=(0, 1.02 * end), max_width=900, height=420)
    colours = Category10[10] if len(curves) <= 10 else turbo(len(curves) + 2)[1:-1]
    items, drawn = [], []
    for (name, xs, ys), colour in zip(curves, colours, strict=False):
        columns = dict(x=list(xs), y=list(ys))
        if epoch_length:
            columns["epoch"] = [number / epoch_length for number in xs]
        source = ColumnDataSource(columns)
        line = plot.line("x", "y", source=source, color=colour, line_width=2, alpha=0.9, name=name)
        is_sparse = len(xs) <= _FEW_POINTS
        points = [plot.scatter("x", "y", source=source, color=colour, size=6)] if is_sparse else []
        items.append(LegendItem(label=name, renderers=[line, *points]))
        drawn.append(line)
    for start in starts:
        plot.add_layout(Span(location=start, dimension="height", line_color=_GREY, line_dash="dotted"))
    if len(items) > 1:
        plot.add_layout(Legend(items=items, click_policy="hide", **_LEGEND), "below")
    tips = [("", "$name"), ("iteration", "@x{0,0}"), *([("epoch", "@epoch{0.0}")] if epoch_length else [])]
    plot.add_tools(HoverTool(renderers=drawn, tooltips=[*tips, (y, "@y{0.00000}")]))
    return plot
