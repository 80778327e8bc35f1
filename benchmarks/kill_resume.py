"""Kills training runs with SIGKILL at random moments, resumes them, and compares the final weights.

python -m benchmarks.kill_resume [--tasks detection segmentation classification] [--kills 10] [--seed 0] [--json FILE]

It uses small versions of the three demo configs. Every run is a separate process, which resumes from the newest
complete checkpoint of the killed run before it. Every third kill happens while a checkpoint is being written, the
others after a random number of iterations and a random fraction of one. If a run ends before all kills are done,
training starts again from the beginning.
"""

import argparse
import contextlib
import importlib
import io
import json
import mmap
import multiprocessing
import os
import platform
import random
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.data.shapes.ade import write_ade
from convnext_dense.data.shapes.coco import write_coco
from convnext_dense.data.shapes.crops import write_crops
from convnext_dense.engine import train_model

ROOT = Path(__file__).parents[1]
INTERVAL = 4  # iterations between two checkpoints
LENGTH = 32  # iterations

ATTO = dict(_delete_=True, depths=(1, 1, 1, 1), channels=(8, 16, 24, 32))
EPOCHS = LENGTH // INTERVAL
TASKS: dict[str, tuple[str, Callable[[Path], object], dict[str, Any]]] = {
    "detection": (
        "configs/demo/mask_rcnn_convnext_atto_shapes.py",
        lambda root: write_coco(root, 2 * INTERVAL, num_val=2, image_size=(96, 96)),
        {
            "model.backbone.arch": ATTO,
            "+model.backbone.drop_path_rate": 0.2,
            "model.neck.in_channels": [8, 16, 24, 32],
            "model.train_cfg.rpn_proposal.max_per_img": 20,
            "model.train_cfg.rcnn.sampler.num": 16,
            "model.test_cfg.rpn.max_per_img": 20,
            "train_dataloader.batch_size": 2,
            "train_cfg.max_epochs": EPOCHS,
            "train_cfg.val_interval": EPOCHS // 2,
        },
    ),
    "segmentation": (
        "configs/demo/upernet_convnext_atto_shapes.py",
        lambda root: write_ade(root, 2 * INTERVAL, num_val=2, image_size=(96, 96)),
        {
            "model.backbone.arch": ATTO,
            "model.decode_head.in_channels": [8, 16, 24, 32],
            "model.auxiliary_head.in_channels": 24,
            "model.data_preprocessor.size": (64, 64),
            "model.test_cfg.crop_size": (64, 64),
            "train_dataloader.batch_size": 2,
            "train_dataloader.dataset.pipeline.2.crop_size": (64, 64),
            "train_cfg.max_iters": LENGTH,
            "train_cfg.val_interval": LENGTH // 2,
            "default_hooks.checkpoint.interval": INTERVAL,
            "+custom_hooks": [dict(type="EMAHook", momentum=0.1)],
        },
    ),
    "classification": (
        "configs/demo/pretrain_convnext_atto_shapes.py",
        lambda root: write_crops(root, 8 * INTERVAL, num_val=24),
        {
            "model.backbone.arch": ATTO,
            "+model.backbone.drop_path_rate": 0.2,
            "model.mixup": dict(_delete_=True, mixup_alpha=0.8, cutmix_alpha=1.0),
            "train_dataloader.batch_size": 8,
            "effective_batch": 16,
            "train_cfg.max_epochs": EPOCHS,
            "train_cfg.val_interval": EPOCHS // 2,
            "custom_hooks": [dict(type="EMAHook", momentum=0.1)],
        },
    ),
}


@HOOKS.register_module(force=True)
class ProgressHook(Hook):
    """Writes the first iteration of the run and the number of finished iterations to shared memory."""

    memory: mmap.mmap

    def before_train(self, runner: Any) -> None:
        """Write the first iteration of the run."""
        struct.pack_into("qq", self.memory, 0, runner.iter, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the number of finished iterations."""
        struct.pack_into("q", self.memory, 8, runner.iter + 1)


class Run:
    """A process that trains from the beginning or from the newest checkpoint."""

    def __init__(self, task: str, data: Path, work_dir: Path) -> None:
        config, _, options = TASKS[task]
        options = deepcopy(options)
        name = "custom_hooks" if "custom_hooks" in options else "+custom_hooks"
        options[name] = [*options.get(name, []), dict(type="ProgressHook")]
        options = {**options, "train_dataloader.num_workers": 1, "default_hooks.logger.interval": 1}
        self.work_dir = work_dir
        ProgressHook.memory = self.memory = mmap.mmap(-1, 16)
        struct.pack_into("qq", self.memory, 0, -1, -1)
        target = multiprocessing.get_context("fork").Process
        self.process = target(target=_train, args=(ROOT / config, options, data, work_dir))
        self.process.start()

    @property
    def begin(self) -> int:
        """The first iteration of the run; -1 before it starts."""
        return struct.unpack_from("q", self.memory, 0)[0]

    @property
    def done(self) -> int:
        """The number of finished iterations."""
        return struct.unpack_from("q", self.memory, 8)[0]

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; return whether the process was still alive."""
        while self.process.is_alive():
            if condition():
                return True
            time.sleep(0.0005)
        return False

    def is_writing(self) -> bool:
        """Return whether a checkpoint is being written at the moment."""
        return any(self.work_dir.glob(".*.partial"))

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def _train(config: Path, options: Mapping[str, Any], data: Path, work_dir: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        train_model(config, options, data=str(data), work_dir=str(work_dir), resume="auto")


def kill_and_resume(task: str, folder: Path, *, num_kills: int, rng: random.Random) -> dict[str, Any]:
    """Train once without and once with kills.

    Returns:
        A description of every kill, and whether the final checkpoints are identical.
    """
    start = time.time()
    data = folder / "data"
    TASKS[task][1](data)
    whole = Run(task, data, folder / "whole")
    whole.process.join()
    assert whole.process.exitcode == 0, f"{task}: the undisturbed run ended with {whole.process.exitcode}"
    kills: list[dict[str, Any]] = []
    work_dir = folder / "run"
    while True:
        run = Run(task, data, work_dir)
        if run.wait(lambda run=run: run.begin >= 0) and kills:
            _note_resume(kills[-1], run)
        if len(kills) < num_kills and _kill(run, rng, while_writing=len(kills) % 3 == 1):
            kills.append(dict(killed_at=run.done, was_writing=run.is_writing()))
            continue
        run.process.join()
        assert run.process.exitcode == 0, f"{task}: a resumed run ended with {run.process.exitcode}"
        _note_resume(kills[-1], run)
        differences = compare(folder / "whole", work_dir)
        if len(kills) >= num_kills or differences:
            break
        shutil.rmtree(work_dir)
    return dict(
        task=task,
        kills=kills,
        num_kills=len(kills),
        num_resumed=sum("resumed_at" in kill for kill in kills),
        most_lost=max(kill["lost"] for kill in kills),
        interval=INTERVAL,
        iterations=LENGTH,
        is_identical=not differences,
        differences=differences[:10],
        seconds=round(time.time() - start),
    )


def _kill(run: Run, rng: random.Random, *, while_writing: bool) -> bool:
    """Kill a run at a random moment, unless it ends first; return whether it was killed."""
    if while_writing:
        is_alive = run.wait(run.is_writing)
    else:
        target = run.begin + rng.randint(0, INTERVAL + 2)
        is_alive = run.wait(lambda: run.done >= target)
        time.sleep(rng.random() * 0.3)
    if not is_alive or not run.process.is_alive():
        return False
    run.kill()
    return True


def _note_resume(kill: dict[str, Any], run: Run) -> None:
    if "resumed_at" not in kill:
        kill.update(resumed_at=run.begin, lost=kill["killed_at"] - run.begin)
        print(f"{run.work_dir}: {kill}", flush=True)


def compare(whole: Path, run: Path) -> list[str]:
    """Return the names of what differs in two runs' last checkpoints: weights, averages, optimizer, best score."""
    ends = [read_checkpoint((folder / "last_checkpoint").read_text()) for folder in (whole, run)]
    parts = [end["state_dict"] | end.get("ema_state_dict", {}) for end in ends]
    for end, part in zip(ends, parts, strict=True):
        for index, state in end["optimizer"]["state"].items():
            part.update({f"optimizer.{index}.{name}": tensor for name, tensor in state.items()})
        part["iter"] = torch.tensor(end["meta"]["iter"])
        part["best_score"] = torch.tensor(end["message_hub"]["runtime_info"].get("best_score", 0.0))
    return [name for name, tensor in parts[0].items() if not torch.equal(tensor, parts[1][name])]


def main() -> None:
    """Parse the arguments, run the tasks, print a table, and write the results if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--kills", type=int, default=10, help="number of kills per task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for package in ("mmdet.models", "mmseg.models"):
        importlib.import_module(package)  # once here, not again in every process
    results = []
    for task in args.tasks:
        with tempfile.TemporaryDirectory() as folder:
            results.append(
                kill_and_resume(task, Path(folder), num_kills=args.kills, rng=random.Random(f"{args.seed} {task}"))
            )
    print(f"{'task':16}{'kills':>6}{'resumed':>9}{'most lost':>11}{'interval':>10}{'identical':>11}{'seconds':>9}")
    for result in results:
        numbers = [result[key] for key in ("num_kills", "num_resumed", "most_lost", "interval")]
        print("{:16}{:6}{:9}{:11}{:10}".format(result["task"], *numbers), end="")
        print(f"{'yes' if result['is_identical'] else 'NO':>11}{result['seconds']:9}")
    if args.json:
        content = dict(torch=torch.__version__, python=platform.python_version(), seed=args.seed, results=results)
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    if not all(result["is_identical"] and result["most_lost"] <= INTERVAL for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
