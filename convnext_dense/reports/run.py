"""What the log folders of a work dir say about its latest training run."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from convnext_dense.errors import UserError

Row = dict[str, Any]

# mmengine's line, which is written before the first iteration; logs of training follow.
_RESUMED = re.compile(r"resumed epoch: \d+, iter: (\d+)")
_TRAINS = ("Epoch(train)", "Iter(train)")
_BEST = re.compile(r"best_(.+)_(epoch|iter)_(\d+)\.pth")
# Of the rows of an evaluation, what is no metric.
_PLACES = ("iter", "epoch", "step", "time", "data_time", "seconds", "memory")


class Curve(NamedTuple):
    """Values over iterations.

    Attributes:
        name: Of the value.
        xs: Iterations.
        ys: Values; NaN where there is none.
    """

    name: str
    xs: list[int]
    ys: list[float]


class Best(NamedTuple):
    """The best checkpoint.

    Attributes:
        file: Its name.
        metric: The name of the metric that chose it.
        iteration: At which it was written.
        value: Of the metric.
    """

    file: str
    metric: str
    iteration: int
    value: float


@dataclass
class Run:
    """A training run, from its first iteration to its last, over all its log folders.

    Attributes:
        work_dir: The folder.
        folders: The log folders of the run and of what resumed it, oldest first.
        starts: The iteration after which each of them began.
        training: Rows of the log with their ``iter``, in order.
        evaluations: Rows of the evaluations with their ``iter``, in order.
        epoch_length: Iterations of an epoch; None if the run does not count epochs or had none yet.
    """

    work_dir: Path
    folders: list[Path] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    training: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    epoch_length: int | None = None

    @property
    def config(self) -> Path:
        """The config in the work dir, which starts the run again; without one, the folder."""
        return max(self.work_dir.glob("*.py"), key=lambda path: path.stat().st_mtime, default=self.work_dir)

    @property
    def last_iteration(self) -> int:
        """The last iteration in the log."""
        return max(row["iter"] for row in (*self.training[-1:], *self.evaluations[-1:]))

    def losses(self) -> list[Curve]:
        """Return the losses, their sum first."""
        names = [name for name in _names(self.training) if "loss" in name and name != "loss_scale"]
        return [self._curve(self.training, name) for name in sorted(names, key=lambda name: name != "loss")]

    def learning_rates(self) -> list[Curve]:
        """Return the learning rates; of equal ones, the one with the shortest name."""
        names = sorted((name for name in _names(self.training) if name.endswith("lr")), key=len)
        curves = [self._curve(self.training, name) for name in names]
        return [curve for number, curve in enumerate(curves) if curve.ys not in [kept.ys for kept in curves[:number]]]

    def others(self) -> list[Curve]:
        """Return what else the training logs: accuracies of its batches, the norm of the gradient, memory."""
        left_out = {curve.name for curve in self.losses()} | set(_PLACES) - {"memory"}
        names = [name for name in _names(self.training) if name not in left_out and not name.endswith("lr")]
        return [self._curve(self.training, name) for name in names]

    def metrics(self) -> list[Curve]:
        """Return the metrics of the evaluations, without those that are nowhere defined, -1 in COCO's."""
        curves = [self._curve(self.evaluations, name) for name in _names(self.evaluations) if name not in _PLACES]
        defined = [curve._replace(ys=[math.nan if y == -1 else y for y in curve.ys]) for curve in curves]
        return [curve for curve in defined if not all(map(math.isnan, curve.ys))]

    def times(self) -> list[Curve]:
        """Return seconds of a training iteration: waiting for data, and the rest; and of a batch of an evaluation."""
        whole, data = (self._curve(self.training, name) for name in ("time", "data_time"))
        waited = dict(zip(data.xs, data.ys, strict=True))
        step = [total - waited.get(at, 0.0) for at, total in zip(whole.xs, whole.ys, strict=True)]
        parts = [data._replace(name="data"), Curve("step", whole.xs, step)]
        parts.append(self._curve(self.evaluations, "time")._replace(name="validation batch"))
        return [part for part in parts if not all(map(math.isnan, part.ys))]

    def seconds(self) -> dict[str, float]:
        """Return about how many seconds the phases took; that of the validations is left out where it is unknown."""
        lengths = [row["iter"] - before for row, before in zip(self.training, self._previous(), strict=True)]
        sums = {
            curve.name: sum(length * y for length, y in zip(lengths, curve.ys, strict=True) if math.isfinite(y))
            for curve in self.times()
            if curve.name != "validation batch"
        }
        known = [row["seconds"] for row in self.evaluations if "seconds" in row]
        return {**sums, **({"validation": sum(known)} if known else {})}

    def best(self) -> Best | None:
        """Return the best checkpoint that is in the work dir and in the log; None if there is none."""
        names = {name.replace("/", "_"): name for name in _names(self.evaluations)}
        newest_first = sorted(self.work_dir.glob("best_*.pth"), key=lambda path: -path.stat().st_mtime)
        for path in newest_first:  # an older one may be of an earlier run
            found = _BEST.fullmatch(path.name)
            metric = names.get(found[1]) if found else None
            if found is None or metric is None:
                continue
            number = int(found[3])
            iteration = number if found[2] == "iter" else number * (self.epoch_length or 0)
            for row in self.evaluations:
                if metric in row and row["iter"] == iteration:
                    return Best(path.name, metric, iteration, row[metric])
        return None

    def _previous(self) -> Iterator[int]:
        yield from [0, *(row["iter"] for row in self.training)][: len(self.training)]

    @staticmethod
    def _curve(rows: Sequence[Row], name: str) -> Curve:
        present = [row for row in rows if name in row]
        return Curve(name, [row["iter"] for row in present], [float(row[name]) for row in present])


def read_run(work_dir: Path) -> Run:
    """Read the latest run of a work dir, continued through the log folders that resumed it.

    What a resumed run repeats replaces what was logged before; a run that was not resumed starts anew.

    Raises:
        UserError: There is no log of a training run.
    """
    run = Run(work_dir)
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        folder = file.parents[1]
        rows = list(_rows(file))
        if not rows:
            continue
        start = _resumed_at(folder)
        if start == 0:
            run = Run(work_dir)
        run.folders.append(folder)
        run.starts.append(start)
        run.training = [row for row in run.training if row["iter"] <= start]
        run.evaluations = [row for row in run.evaluations if row["iter"] <= start]
        new = [row for row in rows if _is_training(row)]
        run.epoch_length = _epoch_length([*run.training, *new], rows) or run.epoch_length
        repeated = {row["iter"]: row for row in (*run.evaluations, *_placed(rows, run.epoch_length, start))}
        run.evaluations = list(repeated.values())
        run.training += new
    if not (run.training or run.evaluations):
        raise UserError(f"{work_dir} has no log of a training run: there is no */vis_data/scalars.json in it.")
    return run


def _rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a log as numbers by name; one that is being written is left out."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(row, dict):
            continue
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        # A log with a hierarchy names the phase of every value.
        yield {key.removeprefix("train/").removeprefix("val/"): value for key, value in numbers.items()}


def _is_training(row: Row) -> bool:
    return any(key.endswith("lr") for key in row) and "iter" in row


def _resumed_at(folder: Path) -> int:
    """Return the iteration after which a log folder's run was resumed; 0 for a new run."""
    for file in folder.glob("*.log"):
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                found = _RESUMED.search(line)
                if found:
                    return int(found[1])
                if any(text in line for text in _TRAINS):
                    break
    return 0


def _epoch_length(training: Sequence[Row], rows: Sequence[Row]) -> int | None:
    """Return the iterations of an epoch, from an evaluation, or from the first rows of two epochs."""
    if not any("epoch" in row for row in training):
        return None
    for row in rows:
        if not _is_training(row) and row.get("step") and row.get("iter", 0) >= 2 * row["step"]:
            return row["iter"] // row["step"]
    firsts: dict[int, int] = {}
    for row in training:
        firsts.setdefault(row.get("epoch", 0), row["iter"])
    epochs = sorted(firsts)
    if len(epochs) < 2:
        return None
    return round((firsts[epochs[-1]] - firsts[epochs[0]]) / (epochs[-1] - epochs[0]))


def _placed(rows: Sequence[Row], epoch_length: int | None, start: int) -> Iterator[Row]:
    """Yield the evaluations with the iteration at which they were made.

    Our runs log it; for others it follows from the epoch, or is the last iteration that was logged before.
    """
    counts_epochs = any("epoch" in row for row in rows if _is_training(row))
    last = start
    for row in rows:
        if _is_training(row):
            last = row["iter"]
            continue
        if not set(row) - set(_PLACES):  # interrupted
            continue
        step = row.get("step", 0)
        if "iter" in row:
            place = row["iter"]
        elif not counts_epochs:
            place = step
        else:
            place = step * epoch_length if epoch_length else last
        yield {**row, "iter": place}


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
