"""Signals to a process or its whole group, as sent by terminals, `timeout`, systemd and batch systems."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from small_runs import SMALLEST_ARCH

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.cli.command_line import run_command
from convnext_dense.data.shapes.crops import write_crops
from convnext_dense.engine import train_model

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/demo/pretrain_convnext_atto_shapes.py"
OPTIONS = {
    "model.backbone.arch": SMALLEST_ARCH,
    "train_cfg.max_epochs": 100000,
    "train_cfg.val_interval": 100000,
    "default_hooks.checkpoint.interval": 100000,
    "train_dataloader.batch_size": 4,
    "val_dataloader.batch_size": 1,
    "param_scheduler": [],
    "effective_batch": None,
    **{f"{split}_dataloader.dataset.transform.input_size": 32 for split in ("train", "val", "test")},
}
IN_PROCESS = dict(num_workers=0, persistent_workers=False)
FRESH = dict(num_workers=2, persistent_workers=False)
PERSISTENT = dict(num_workers=2, persistent_workers=True)


@HOOKS.register_module(force=True)
class MarkHook(Hook):
    """Creates a file when a stage is reached, and waits there for a while."""

    def __init__(self, stage):
        self.stage = stage

    def _mark(self, runner, stage):
        if stage == self.stage:
            Path(runner.work_dir, "reached").touch()
            time.sleep(0.05)

    def before_run(self, runner):
        if self.stage == "start":
            Path(runner.work_dir, "reached").touch()
            time.sleep(30)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter >= 2:
            self._mark(runner, "train")

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx >= 1:
            self._mark(runner, "val")


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    root = tmp_path_factory.mktemp("crops")
    write_crops(root, 24, num_val=12, seed=1)
    return root


def start(work_dir, crops, loader, *, stage="train", num_processes=1):
    """Starts training in its own process group; returns the group and the processes."""
    options = {**OPTIONS, "+custom_hooks": [dict(type="MarkHook", stage=stage)]}
    for split in ("train", "val"):
        options.update({f"{split}_dataloader.{key}": value for key, value in loader.items()})
    if stage == "val":
        options["train_cfg.val_interval"] = 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes, group = [], 0
    for rank in range(num_processes):
        place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=num_processes, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        process = fork.Process(target=train, args=(work_dir, crops, options, group, place if num_processes > 1 else {}))
        process.start()
        group = group or process.pid
        while os.getpgid(process.pid) != group:
            time.sleep(0.01)
        processes.append(process)
    deadline = time.monotonic() + 240
    while not (work_dir / "reached").exists():
        if time.monotonic() > deadline or not all(process.is_alive() for process in processes):
            os.killpg(group, signal.SIGKILL)
            pytest.fail(f"The stage is not reached: {said(work_dir)}")
        time.sleep(0.02)
    return group, processes


def train(work_dir, crops, options, group, place):
    os.setpgid(0, group)
    os.environ.update({name: str(value) for name, value in place.items()})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stderr = (work_dir / f"stderr_{place.get('RANK', 0)}").open("w")
    os.dup2(sys.stderr.fileno(), 2)
    launcher = "pytorch" if place else "none"
    run_command(lambda: train_model(CONFIG, options, data=str(crops), work_dir=str(work_dir), launcher=launcher))


def said(work_dir):
    return "\n".join(path.read_text() for path in sorted(work_dir.glob("stderr_*")))


def wait_for_end(processes, group):
    """Returns the exit codes once the process group is empty."""
    for process in processes:
        process.join(timeout=60)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return [process.exitcode for process in processes]
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers are left")


def end(number, target, work_dir, crops, loader, **kwargs):
    group, processes = start(work_dir, crops, loader, **kwargs)
    if target == "group":
        os.killpg(group, number)
    else:
        os.kill(processes[0].pid, number)
    return wait_for_end(processes, group)


@pytest.mark.parametrize(
    ("number", "target", "loader", "kwargs"),
    [
        (signal.SIGTERM, "group", FRESH, {}),
        (signal.SIGTERM, "group", PERSISTENT, dict(stage="val")),
        (signal.SIGUSR1, "group", PERSISTENT, {}),
        (signal.SIGINT, "group", FRESH, dict(stage="val")),
        (signal.SIGTERM, "main", IN_PROCESS, {}),
        (signal.SIGTERM, "group", FRESH, dict(num_processes=2)),
        (signal.SIGUSR1, "main", PERSISTENT, dict(num_processes=2, stage="val")),
    ],
)
def test_run_is_saved_and_exits_with_its_code(number, target, loader, kwargs, crops, tmp_path):
    codes = end(number, target, tmp_path, crops, loader, **kwargs)
    assert codes == [130 if number == signal.SIGINT else 75] * kwargs.get("num_processes", 1), said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert read_checkpoint(tmp_path / "interrupted.pth")["meta"]["iter"] >= 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_before_the_first_iteration_a_run_exits_at_once_without_a_traceback(number, code, crops, tmp_path):
    begin = time.monotonic()
    assert end(number, "group", tmp_path, crops, IN_PROCESS, stage="start") == [code]
    assert time.monotonic() - begin < 25  # the hook would have waited for 30 seconds
    assert "Traceback" not in said(tmp_path)


def test_one_press_of_ctrl_c_that_arrives_twice_saves_the_run(crops, tmp_path):
    """`timeout -s INT` and launchers send the signal to the process and to its group."""
    group, processes = start(tmp_path, crops, FRESH)
    os.kill(processes[0].pid, signal.SIGINT)
    time.sleep(0.01)
    os.killpg(group, signal.SIGINT)
    assert wait_for_end(processes, group) == [130]
    assert "Traceback" not in said(tmp_path)
    assert (tmp_path / "interrupted.pth").exists()


def test_workers_end_when_their_process_is_killed(crops, tmp_path):
    group, processes = start(tmp_path, crops, PERSISTENT)
    os.kill(processes[0].pid, signal.SIGKILL)
    assert wait_for_end(processes, group) == [-signal.SIGKILL]
