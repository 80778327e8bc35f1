"""Processor time that a training takes for showing how far it is, beside the same training in a pipe.

python -m benchmarks.run_overhead [--rounds 5] [--way NAME "ARGUMENTS"] [--hooks NAME ...] [--json FILE]

Each run is a process that calls the command of tools/train.py on the demo's detector and generated images. ``plain``
has a pipe as its standard output, ``display`` a terminal of 80 x 24; ``--way`` adds one with more arguments on a
terminal. The ways take turns. The processor time is that of the command, without imports and the data's worker.

Runs differ by more than what is looked for. The benchmark therefore also wraps the methods of the hooks that
``--hooks`` names, and adds up the processor time inside them: writing on the terminal is part of it.
"""

import argparse
import contextlib
import datetime
import functools
import json
import os
import platform
import pty
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.timing import cpu_name
from convnext_dense import engine
from convnext_dense.cli.main import run
from convnext_dense.data.shapes.coco import write_coco

ROOT = Path(__file__).parents[1]
CONFIG = "configs/demo/mask_rcnn_convnext_atto_scratch.py"
NUM_IMAGES, EPOCHS = 64, 2
ARGUMENTS = [CONFIG, "--epochs", str(EPOCHS), "--cfg-options", "default_hooks.logger.interval=4"]
PLAIN = "plain"


def main() -> None:
    """Parse the arguments, measure, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way (default: %(default)s)")
    parser.add_argument(
        "--way", nargs=2, action="append", default=[], metavar=("NAME", "ARGUMENTS"), help="of tools/train.py, quoted"
    )
    parser.add_argument("--hooks", nargs="+", default=["LiveDisplayHook"], help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        out, *arguments = args.measure
        Path(out).write_text(json.dumps(measure(arguments, args.hooks)))
        return
    ways = {PLAIN: [], "display": [], **{name: shlex.split(arguments) for name, arguments in args.way}}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        write_coco(Path(folder, "data"), NUM_IMAGES, num_val=8)
        for turn in range(args.rounds):
            names = list(ways)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                runs[name].append(start(name, ways[name], Path(folder), args.hooks))
    result = summarise(runs) | dict(
        config=CONFIG,
        iterations=NUM_IMAGES // 4 * EPOCHS,
        rounds=args.rounds,
        threads=1,
        date=str(datetime.date.today()),
        cpu=cpu_name(),
        versions={
            **{name: version(name) for name in ("torch", "mmengine", "rich")},
            "python": platform.python_version(),
        },
    )
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def start(name: str, arguments: list[str], folder: Path, hooks: list[str]) -> dict[str, float]:
    """Run one training in a process of its own, and return what ``measure`` found."""
    out = folder / "result.json"
    command = [sys.executable, "-m", "benchmarks.run_overhead", "--hooks", *hooks, "--measure", str(out), *ARGUMENTS]
    command += ["--data", str(folder / "data"), "--work-dir", str(folder / "run"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    if name == PLAIN:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    else:
        master, terminal = pty.openpty()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
        os.close(terminal)
        with contextlib.suppress(OSError):  # the other end is closed
            while os.read(master, 65536):
                pass
        os.close(master)
        if process.wait():
            raise RuntimeError(f"{shlex.join(command)} failed.")
    return json.loads(out.read_text())


def measure(arguments: list[str], hooks: list[str]) -> dict[str, float]:
    """Train in this process, and return the processor time in seconds, of all and inside the hooks."""
    torch.set_num_threads(1)
    inside: list[float] = []
    for name in hooks:
        time_methods(getattr(engine, name), inside)
    sys.argv = ["train.py", *arguments]
    begin = time.process_time()
    run("train")
    return dict(processor_s=time.process_time() - begin, hooks_s=sum(inside), calls=len(inside))


def time_methods(kind: type, inside: list[float]) -> None:
    """Wrap the public methods of a class, so that each call notes its processor time, with those that it calls."""
    running: list[str] = []

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        running.append(name)
        begin = time.process_time()
        try:
            yield
        finally:
            running.remove(name)
            if not running:
                inside.append(time.process_time() - begin)

    def wrap(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with timed(name):
                return method(*args, **kwargs)

        return wrapped

    for name, method in list(vars(kind).items()):
        if callable(method) and not name.startswith("_"):
            setattr(kind, name, wrap(name, method))


def summarise(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians, and what each way takes more than ``plain``, in percent."""
    plain = median(run["processor_s"] for run in runs[PLAIN])
    ways = {}
    for name, ones in runs.items():
        ways[name] = dict(
            processor_s=round(median(run["processor_s"] for run in ones), 3),
            processor_s_all=[round(run["processor_s"], 3) for run in ones],
            hooks_s=round(median(run["hooks_s"] for run in ones), 4),
            hooks_s_all=[round(run["hooks_s"], 4) for run in ones],
            hooks_percent=round(100 * median(run["hooks_s"] / run["processor_s"] for run in ones), 3),
            more_percent=round(100 * (median(run["processor_s"] for run in ones) / plain - 1), 2),
        )
    return dict(ways=ways)


if __name__ == "__main__":
    main()
