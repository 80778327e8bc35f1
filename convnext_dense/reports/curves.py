"""The curves of a run as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnext_dense.files import names_unwritable, written_whole
from convnext_dense.reports.run import Best, Curve, Run

# Wong's colours, which the colour-blind tell apart (Nature Methods 8, 441, 2011); black is last.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#000000")
_MOST_LINES = len(_COLOURS)
_MOST_POINTS = 1000  # of a line, more than the picture has columns for
# Endings of metrics that are left out first where there are too many: COCO's by size and by IoU.
_DETAILS = (("_s", "_m", "_l"), ("_75",), ("_50",))


def write_curves(run: Run, path: Path) -> None:
    """Write losses, metrics, learning rates and times of a run as a picture.

    Raises:
        UserError: It cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # In inches. Room for legends is fixed: matplotlib's own layouts draw everything twice.
    figure = Figure(figsize=(14, 9), dpi=100)
    figure.subplots_adjust(left=0.05, right=0.86, top=0.9, bottom=0.06, wspace=0.5, hspace=0.25)
    FigureCanvasAgg(figure)
    figure.suptitle(headline(run), x=0.05, ha="left", fontsize=13)
    (losses, metrics), (rates, times) = figure.subplots(2, 2)
    _draw(losses, "Losses", run.losses(), is_log=True)
    _draw(metrics, "Metrics", fewer(run.metrics()), best=run.best())
    _draw(rates, "Learning rate", run.learning_rates())
    _draw(times, "Seconds per iteration", run.times())
    times.set_ylim(bottom=0)
    for plot in (losses, metrics, rates, times):
        plot.set_xlim(0, 1.02 * max(run.last_iteration, 1))
        plot.set_xlabel("iteration" + (f" ({run.epoch_length:,} per epoch)" if run.epoch_length else ""), fontsize=9)
        for start in run.starts[1:]:
            plot.axvline(start, color="#999999", linewidth=1, linestyle=":")
    with names_unwritable(path), written_whole(path, flush=False) as partial:
        figure.savefig(partial, format="png")


def headline(run: Run) -> str:
    """Return the name, the length and the best evaluation of a run in one line."""
    length = f"{run.last_iteration:,} iterations"
    if run.epoch_length:
        length += f" ({run.last_iteration / run.epoch_length:.1f} epochs)"
    best = run.best()
    found = f", best {best.metric} {best.value:.4g} at {best.iteration:,}" if best else ""
    return f"{run.config.stem}: {length}{found}"


def fewer(metrics: Sequence[Curve]) -> list[Curve]:
    """Return as many metrics as one figure can show: those in detail are left out."""
    kept = list(metrics)
    for endings in _DETAILS:
        if len(kept) > _MOST_LINES:
            kept = [curve for curve in kept if not curve.name.endswith(endings)]
    return kept[:_MOST_LINES]


def thinned(curve: Curve, most: int) -> Curve:
    """Return a curve with no more than about that many points, the last one among them."""
    stride = -(-len(curve.xs) // most) or 1
    return curve._replace(xs=curve.xs[::-stride][::-1], ys=curve.ys[::-stride][::-1])


def _draw(plot: Any, title: str, curves: Sequence[Curve], *, is_log: bool = False, best: Best | None = None) -> None:
    plot.set_title(title, loc="left", fontsize=11, fontweight="bold")
    plot.spines[["top", "right"]].set_visible(False)
    plot.grid(color="#e5e5e5", linewidth=0.8)
    plot.tick_params(labelsize=9)
    if not curves:
        plot.text(0.5, 0.5, "nothing logged yet", transform=plot.transAxes, ha="center", color="#777777")
        return
    if is_log and all(y > 0 for curve in curves for y in curve.ys if y == y):
        plot.set_yscale("log")
        plot.yaxis.set_major_formatter("{x:g}")
        plot.yaxis.set_minor_formatter("")
    for number, curve in enumerate(curves):
        shown = thinned(curve, _MOST_POINTS)
        style = dict(color=_COLOURS[number % len(_COLOURS)], linewidth=2.2 if number == 0 else 1.4)
        plot.plot(shown.xs, shown.ys, label=curve.name, marker="o" if len(shown.xs) <= 30 else None, ms=3.5, **style)
    if best:
        plot.plot(best.iteration, best.value, marker="*", ms=14, color="#F0B400", mec="#444444", zorder=5)
    plot.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1, 1.03))
