"""Runs that end at any iteration and resume: what they resume from, and that the result is the same."""

import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS
from small_runs import LOADERS, SMALLEST_ARCH

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.cli.command_line import run_command
from convnext_dense.data.shapes.crops import write_crops
from convnext_dense.engine import train_model

ROOT = Path(__file__).parents[2]
DETECTION = {
    **LOADERS,
    "model.backbone.arch": SMALLEST_ARCH,
    "+model.backbone.drop_path_rate": 0.3,
    "model.neck.in_channels": [8, 16, 24, 32],
    "model.train_cfg.rpn_proposal.max_per_img": 20,
    "model.train_cfg.rcnn.sampler.num": 8,
    "model.test_cfg.rpn.max_per_img": 10,
    "train_dataloader.batch_size": 2,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 2,
    "param_scheduler": [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=6),
        dict(type="CosineAnnealingLR", T_max=2, convert_to_iter_based=True),
    ],
}
SEGMENTATION = {
    **LOADERS,
    "model.backbone.arch": SMALLEST_ARCH,
    "model.decode_head.in_channels": [8, 16, 24, 32],
    "model.auxiliary_head.in_channels": 24,
    "model.data_preprocessor.size": (64, 64),
    "model.test_cfg.crop_size": (64, 64),
    "model.test_cfg.stride": (48, 48),
    "train_dataloader.batch_size": 2,
    "train_dataloader.dataset.pipeline.2.crop_size": (64, 64),
    "train_cfg.max_iters": 6,
    "train_cfg.val_interval": 3,
    "default_hooks.checkpoint.interval": 3,
    "+custom_hooks": [dict(type="EMAHook", momentum=0.2)],
}
CLASSIFICATION = {
    **LOADERS,
    "model.backbone.arch": SMALLEST_ARCH,
    "+model.backbone.drop_path_rate": 0.3,
    "model.mixup": dict(_delete_=True, mixup_alpha=0.8, cutmix_alpha=1.0),
    "train_dataloader.batch_size": 4,
    "effective_batch": 16,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
    "param_scheduler": [dict(type="CosineAnnealingLR", T_max=2, end=2, convert_to_iter_based=True)],
    **{f"{split}_dataloader.dataset.transform.input_size": 32 for split in ("train", "val", "test")},
}


@pytest.fixture(scope="session")
def crops_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("crops")
    write_crops(root, 24, num_val=12, seed=1)
    return root


@pytest.fixture
def runs(shapes_folder, ade_folder, crops_folder):
    return {
        "detection": (ROOT / "configs/demo/mask_rcnn_convnext_atto_shapes.py", DETECTION, shapes_folder),
        "segmentation": (ROOT / "configs/demo/upernet_convnext_atto_shapes.py", SEGMENTATION, ade_folder),
        "classification": (ROOT / "configs/demo/pretrain_convnext_atto_shapes.py", CLASSIFICATION, crops_folder),
    }


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Returns the folder of an uninterrupted run, made once per task. Tests must not change it."""
    folders = {}

    def get(task, run):
        if task not in folders:
            folders[task] = tmp_path_factory.mktemp(task)
            train(run, folders[task])
        return folders[task]

    return get


def train(run, work_dir, options=None, **kwargs):
    MMLogger._instance_dict.clear()
    MessageHub._instance_dict.clear()  # runs of the same second have the same name
    config, own, data = run
    train_model(config, deepcopy({**own, **(options or {})}), data=str(data), work_dir=str(work_dir), **kwargs)


def log_of(work_dir):
    return "\n".join(path.read_text() for path in sorted(Path(work_dir).rglob("*.log")))


def assert_same_end(work_dir, other):
    ends = [read_checkpoint((folder / "last_checkpoint").read_text()) for folder in (work_dir, other)]
    assert ends[0]["meta"]["iter"] == ends[1]["meta"]["iter"]
    for key in ("state_dict", "ema_state_dict"):
        for name, tensor in ends[0].get(key, {}).items():
            assert torch.equal(tensor, ends[1][key][name]), f"{key}: {name}"
    for index, state in ends[0]["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, ends[1]["optimizer"]["state"][index][name])
    books = [end["message_hub"]["runtime_info"] for end in ends]
    assert books[0].get("best_score") == books[1].get("best_score")


@HOOKS.register_module(force=True)
class SignalHook(Hook):
    """Sends its own process a signal before an iteration, of training or of the validation after it."""

    def __init__(self, number, at, stage="train"):
        self.number, self.at, self.stage = number, at, stage

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.stage == "train" and runner.iter == self.at:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.stage == "val" and runner.iter == self.at:
            os.kill(os.getpid(), self.number)


def signal_at(iteration, number=signal.SIGTERM, stage="train"):
    return dict(type="SignalHook", number=int(number), at=iteration, stage=stage)


@pytest.fixture(autouse=True)
def signals():
    """A process that a shell starts in the background, or a launcher, may ignore signals."""
    defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("task", "at", "stage"),
    [
        ("detection", 1, "train"),  # inside the first epoch
        ("segmentation", 3, "val"),  # in a validation with the moving average
        ("classification", 9, "train"),  # inside the second epoch, in the middle of a step of four batches
        ("classification", 6, "val"),  # after an epoch that ends in the middle of such a step
    ],
)
def test_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(runs, whole, task, at, stage, tmp_path):
    run = runs[task]
    hooks = run[1].get("+custom_hooks", [])
    undisturbed = whole(task, run)
    with pytest.raises(SystemExit) as left:
        train(run, tmp_path / "run", {"+custom_hooks": [*hooks, signal_at(at, stage=stage)]})
    assert left.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    saved = read_checkpoint((tmp_path / "run/last_checkpoint").read_text())
    steps = 4 if task == "classification" else 1
    done = at if stage == "val" else -(-(at + 1) // steps) * steps
    assert saved["meta"]["iter"] == done
    assert ("gradients" in saved) == bool(done % steps)
    torch.rand(3)  # change the state of the generator
    more_workers = {"train_dataloader.num_workers": 2} if stage == "train" else {}
    train(run, tmp_path / "run", more_workers, resume="auto")
    assert_same_end(undisturbed, tmp_path / "run")
    assert not (tmp_path / "run/interrupted.pth").exists()


def test_changed_schedule_is_refused_and_a_changed_length_is_logged(runs, whole, tmp_path):
    run = runs["classification"]
    shutil.copytree(whole("classification", run), tmp_path, dirs_exist_ok=True)
    checkpoint = str(tmp_path / "epoch_2.pth")
    cosine = dict(type="CosineAnnealingLR", T_max=3, end=2, convert_to_iter_based=True)
    for options, text in [
        (
            {"optim_wrapper.optimizer.lr": 0.1},
            r"initial_lr of parameter group 0 is 0\.0015 in the checkpoint, 0\.1 in the config",
        ),
        (
            {"optim_wrapper.optimizer.weight_decay": 0.3},
            r"weight_decay of parameter group \d is 0\.05 in the checkpoint, 0\.3",
        ),
        ({"param_scheduler": [cosine]}, r"T_max of param_scheduler\.0 is 12 in the checkpoint, 18 in the config"),
        ({"param_scheduler": []}, "1 schedulers in the checkpoint, 0 in the config"),
    ]:
        with pytest.raises(
            ValueError, match=f"epoch_2.pth was written with another schedule than the config's.*{text}"
        ):
            train(run, tmp_path, options, resume=checkpoint)
    train(run, tmp_path, {"train_cfg.max_epochs": 3}, resume=checkpoint)
    assert "max_epochs is 3 now; it was 2 when" in log_of(tmp_path)


def test_checkpoint_inside_an_epoch_of_another_length_is_refused(runs, tmp_path):
    run = runs["classification"]
    with pytest.raises(SystemExit):
        train(run, tmp_path, {"+custom_hooks": [signal_at(1)], "param_scheduler": []})
    with pytest.raises(ValueError, match="written after 4 of 6 batches of an epoch, which now has 3"):
        train(run, tmp_path, {"train_dataloader.batch_size": 8, "param_scheduler": []}, resume="auto")


def test_ctrl_c_exits_after_the_iteration_and_a_second_one_at_once(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("convnext_dense.engine.interrupt_hook._ONE_PRESS", 0.0)
    run = runs["classification"]
    with pytest.raises(SystemExit) as left:
        train(run, tmp_path / "once", {"+custom_hooks": [signal_at(1, signal.SIGINT)]})
    assert left.value.code == 130
    assert read_checkpoint(tmp_path / "once/interrupted.pth")["meta"]["iter"] == 4  # when the step is complete
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "twice", {"+custom_hooks": [signal_at(0, signal.SIGINT), signal_at(2, signal.SIGINT)]})
    assert not (tmp_path / "twice/interrupted.pth").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resume_skips_a_damaged_newest_checkpoint(runs, tmp_path):
    run = runs["classification"]
    train(run, tmp_path, {"default_hooks.checkpoint.max_keep_ckpts": 2})
    newest = tmp_path / "epoch_2.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    train(run, tmp_path, {"default_hooks.checkpoint.max_keep_ckpts": 2}, resume="auto")
    log = log_of(tmp_path)
    assert f"{newest} is skipped: Checkpoint {newest} is damaged" in log
    assert "resumed epoch: 1, iter: 6" in log
    assert read_checkpoint(newest)["meta"]["iter"] == 12


def train_together(run, work_dir, options):
    """Trains in two processes without a launcher, which would end both; returns exit codes and output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_train_as, args=(rank, port, run, work_dir, options)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    return [process.exitcode for process in processes], [(work_dir / f"stderr_{rank}").read_text() for rank in range(2)]


def _train_as(rank, port, run, work_dir, options):
    place = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    os.environ.update({name: str(value) for name, value in place.items()})
    sys.stderr = (work_dir / f"stderr_{rank}").open("w")
    run_command(lambda: train(run, work_dir, options, launcher="pytorch"))


@HOOKS.register_module(force=True)
class OneProcessHook(Hook):
    """Does something to process 1 before its third iteration: a signal, or other data."""

    def __init__(self, what):
        self.what = what

    def before_run(self, runner):
        if self.what == "data" and get_rank() == 1:
            runner.train_dataloader.dataset.samples.pop()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.what != "data" and get_rank() == 1 and runner.iter == 2:
            os.kill(os.getpid(), self.what)


@pytest.mark.parametrize(
    ("what", "codes", "text"),
    [
        (
            int(signal.SIGKILL),
            [1, -9],
            r"Error: Another process of this run is gone or stuck, and process 0 cannot go on",
        ),
        (int(signal.SIGUSR1), [75, 75], ""),
        ("data", [1, 1], r"Error: Processes disagree on training images: 24 in process 0, 23 in process 1"),
    ],
)
def test_two_processes_end_together(runs, what, codes, text, tmp_path):
    options = {
        "+env_cfg.dist_cfg.timeout": 60,
        "effective_batch": 8,
        "+custom_hooks": [dict(type="OneProcessHook", what=what)],
        "default_hooks.checkpoint": dict(type="CheckpointHook", by_epoch=False, interval=1),
    }
    exit_codes, said = train_together(runs["classification"], tmp_path, options)
    assert exit_codes == codes, said
    assert re.search(text, said[0])
    assert "Traceback" not in said[0]
    assert not list(tmp_path.glob(".*.partial"))
    if what == int(signal.SIGUSR1):
        assert read_checkpoint(tmp_path / "interrupted.pth")["meta"]["iter"] == 3  # both after process 1's third
    elif what != "data":
        assert "iter_2.pth" in said[0].splitlines()[-1]
        assert read_checkpoint(tmp_path / "iter_2.pth")["meta"]["iter"] == 2
