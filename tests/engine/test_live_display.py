"""What a run shows on a terminal, and what in a pipe."""

import io
import logging
import os
import re
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS
from mmengine.runner import LogProcessor, Runner
from rich.console import Console
from small_runs import LOADERS, SMALLEST_ARCH
from terminals import Terminal

from convnext_dense import terminal
from convnext_dense.data.shapes.crops import write_crops
from convnext_dense.engine import evaluate_model, live_display_hook, train_model
from convnext_dense.engine.checkpoint_hook import CheckpointHook
from convnext_dense.engine.live_display_hook import LiveDisplayHook

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/demo/pretrain_convnext_atto_shapes.py"
# 24 images in batches of 4 are 6 iterations per epoch; 12 in batches of 4 are 3 of validation.
SMALL = {
    "model.backbone.arch": SMALLEST_ARCH,
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 1,
    "default_hooks.logger.interval": 1,
    "param_scheduler": [],
    "effective_batch": None,
    **{f"{split}_dataloader.dataset.transform.input_size": 32 for split in ("train", "val", "test")},
    **{f"{split}_dataloader.batch_size": 4 for split in ("train", "val", "test")},
    **LOADERS,
}
UPERNET = ROOT / "configs/demo/upernet_convnext_atto_shapes.py"
SMALL_UPERNET = {
    **LOADERS,
    "train_cfg.max_iters": 2,
    "train_cfg.val_interval": 2,
    "+val_dataloader.dataset.indices": 2,
}
ONLY_IN_THE_FILE = ("System environment:", "Config:\n", "Hooks will be executed", "Distributed training is not used")


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    root = tmp_path_factory.mktemp("crops")
    write_crops(root, 24, num_val=12, seed=1)
    return str(root)


@pytest.fixture(autouse=True)
def _every_state_is_drawn(monkeypatch):
    monkeypatch.setattr(terminal, "_SECONDS", 0.0)


@HOOKS.register_module(force=True)
class NoiseHook(Hook):
    """Disturbs the third iteration in one way."""

    def __init__(self, kind):
        self.kind = kind

    def _wait(self, runner):
        Path(runner.work_dir, "reached").touch()
        time.sleep(3)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.kind == "key in evaluation" and batch_idx == 1:
            self._wait(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter != 2:
            return
        if self.kind == "error":
            raise RuntimeError("on purpose")
        if self.kind == "key":
            self._wait(runner)
        if self.kind == "noise":
            print("printed")
            sys.stderr.write(warnings.formatwarning("of Python", UserWarning, "file.py", 1, "the_line()"))
            logging.getLogger("mmengine").warning("logged")
            os.write(2, b"written past Python\n")
            if (child := os.fork()) == 0:
                print("by a worker", file=sys.stderr)
                os._exit(0)
            os.waitpid(child, 0)


def train(data, work_dir, *, config=CONFIG, options=None, **kwargs):
    """Trains in the small."""
    small = SMALL_UPERNET if config == UPERNET else SMALL
    return lambda: train_model(config, {**small, **(options or {})}, data=data, work_dir=str(work_dir), **kwargs)


def log_of(work_dir):
    return "\n".join(path.read_text() for path in sorted(Path(work_dir).rglob("*.log")))


def test_epochs_losses_and_the_best_metric_are_those_of_the_log(crops, tmp_path):
    shown = Terminal(train(crops, tmp_path))
    assert shown.code == 0, shown.text
    log = log_of(tmp_path)
    first = shown.text.partition("Epoch 1/2")[0]
    assert "Training ImageClassifier on ConvNeXt" in first
    assert len(first.splitlines()) < 20
    assert "Data: 24 training and 12 validation images, 6 classes." in shown.text
    for text in ONLY_IN_THE_FILE:
        assert text in log
        assert text.strip() not in shown.text
    lines = re.findall(r"Epoch\(train\) +\[(\d)\]\[(\d)/6\].*?lr: (\S+) .* loss: (\S+)", log)
    assert len(lines) == 12
    for epoch, batch, _, loss in lines[:5] + lines[6:]:
        assert shown.showed(f"Epoch {epoch}/2, batch {batch}/6", f"loss {loss}"), (epoch, batch)
    assert shown.showed(f"lr {lines[-1][2]}", "images/s", "memory", "left")
    assert shown.showed("Epoch 1/2, batch 6/6", "Validation 2/3")
    accuracies = [float(value) for value in re.findall(r"Epoch\(val\).*accuracy/top1: (\S+)", log)]
    assert len(accuracies) == 2
    for epoch, accuracy in enumerate(accuracies, start=1):
        assert f"Epoch {epoch}/2: accuracy/top1 {accuracy:.4f}" in shown.text
    assert shown.showed("Epoch 2/2, batch 6/6", f"best accuracy/top1 {max(accuracies):.4f}")
    speed = float(re.findall(r"([\d.]+) images/s", shown.text)[-1])
    assert speed == pytest.approx(4 / float(re.findall(r" time: (\S+)  data_time: \S+  grad_norm", log)[-1]), rel=0.02)
    assert "Epoch(train)" not in shown.text
    assert f"{tmp_path}/epoch_2.pth" in "".join(shown.text.splitlines())


def test_iterations_are_counted_where_a_run_has_no_epochs(ade_folder, tmp_path):
    shown = Terminal(train(str(ade_folder), tmp_path, config=UPERNET))
    assert shown.code == 0, shown.text
    assert "EncoderDecoder on ConvNeXt (atto)" in shown.text
    assert shown.showed("Iteration 1/2", "decode.loss_ce")
    assert shown.showed("Iteration 2/2", "Validation 1/2")
    miou = re.search(r"mIoU: (\S+)", log_of(tmp_path))[1]
    assert shown.showed("Iteration 2/2:", f"mIoU {float(miou):.4f}", f"best mIoU {float(miou):.4f}")


def test_batches_are_counted_where_gradients_are_accumulated(crops, tmp_path):
    """24 images in batches of 4, two for each step of 8."""
    shown = Terminal(train(crops, tmp_path, options={"effective_batch": 8, "train_cfg.max_epochs": 1}))
    assert shown.code == 0, shown.text
    assert "Effective batch 8 = 1 process x 4 x 2." in shown.words
    assert all(shown.showed(f"Epoch 1/1, batch {number}/6") for number in range(7))


def test_fixed_parameters_are_told_apart(crops, tmp_path):
    """The stem has 3*4*4*8 + 8 weights and a norm of 2*8; the block of 8 channels 7*7*8 + 8 (depthwise), 2*8 (norm),
    8*32 + 32 and 32*8 + 8 (linear) and 8 (scale): 1,384 of 25,958.
    """
    shown = Terminal(train(crops, tmp_path, options={"+model.backbone.frozen_stages": 1}))
    assert "25,958 parameters, 24,574 of them learnt." in shown.words
    assert "Error: frozen_stages=1 would keep" in shown.words  # random values
    assert_is_given_back(shown)


def test_resumed_run_goes_on_with_its_numbers_and_its_best_metric(crops, tmp_path):
    Terminal(train(crops, tmp_path, options={"train_cfg.max_epochs": 1}))
    best = re.search(r"accuracy/top1: (\S+)", log_of(tmp_path))[1]
    shown = Terminal(train(crops, tmp_path, resume="auto"))
    assert shown.code == 0, shown.text
    assert shown.showed("Epoch 2/2, batch 0/6", f"best accuracy/top1 {float(best):.4f}")
    assert not shown.showed("Epoch 1/2, batch")
    assert "The run goes on after iteration 6 of 12." in shown.text


def press_ctrl_c(work_dir):
    """Returns what presses it once the hook waits for it."""
    pressed = []

    def press(shown, master):
        if not pressed and (work_dir / "reached").exists():
            os.write(master, b"\x03")
            pressed.append(True)

    return press


def test_ctrl_c_is_answered_at_once_and_the_terminal_is_given_back(crops, tmp_path):
    options = {"+custom_hooks": [dict(type="NoiseHook", kind="key")]}
    shown = Terminal(train(crops, tmp_path, options=options), react=press_ctrl_c(tmp_path))
    assert shown.code == 130, shown.text
    answer = "Saving after this iteration, then exiting. Press Ctrl-C again to exit at once."
    assert any(answer in frame and "the run ends" not in frame for frame in shown.frames)
    assert answer in shown.text.splitlines()
    assert "SIGINT: the run ends after iteration 3. Continue from" in shown.words
    assert "Traceback" not in shown.text
    assert_is_given_back(shown)


def test_evaluation_that_was_interrupted_is_shown_as_that_of_its_epoch(crops, tmp_path):
    options = {"+custom_hooks": [dict(type="NoiseHook", kind="key in evaluation")]}
    shown = Terminal(train(crops, tmp_path, options=options), react=press_ctrl_c(tmp_path))
    assert shown.code == 130, shown.text
    assert "accuracy/top1" not in shown.text
    shown = Terminal(train(crops, tmp_path, resume="auto"))
    assert shown.code == 0, shown.text
    assert shown.showed("Epoch 2/2, batch 0/6", "Validation 2/3")
    assert shown.text.count("Epoch 1/2: accuracy/top1") == 1
    assert shown.text.count("Epoch 2/2: accuracy/top1") == 1


def test_error_stands_whole_on_the_terminal(crops, tmp_path):
    shown = Terminal(train(crops, tmp_path, options={"+custom_hooks": [dict(type="NoiseHook", kind="error")]}))
    assert shown.code == 1
    assert "Traceback (most recent call last)" in shown.text
    assert shown.text.endswith("RuntimeError: on purpose")
    assert "Epoch 1/2, batch 2/6" in shown.text  # its last state
    assert_is_given_back(shown)


def test_what_data_sets_print_is_for_the_log_and_their_warnings_are_for_everybody(crops, tmp_path, monkeypatch):
    build = Runner.build_dataloader

    def build_loudly(*args, **kwargs):
        print("printed by a data set")
        MMLogger.get_current_instance().warning("warned by a data set")
        return build(*args, **kwargs)

    monkeypatch.setattr(Runner, "build_dataloader", staticmethod(build_loudly))
    shown = Terminal(train(crops, tmp_path, options={"train_cfg.max_epochs": 1}))
    assert shown.code == 0, shown.text
    assert "printed by a data set" not in shown.text
    assert "printed by a data set" in log_of(tmp_path)
    assert shown.text.count("Warning: warned by a data set") == 1


def assert_is_given_back(shown):
    assert not shown.is_cursor_hidden
    assert b"\x1b[?25l" not in shown.raw  # not even in a killed process
    assert shown.cursor == (len(shown.frames[-1].splitlines()), 0) or shown.cursor[0] == 39


@pytest.mark.parametrize("width", [80, 40])
def test_what_others_write_stays_above_the_display(width, crops, tmp_path):
    options = {"+custom_hooks": [dict(type="NoiseHook", kind="noise")]}
    shown = Terminal(train(crops, tmp_path, options=options), width=width)
    assert shown.code == 0, shown.text
    for text in ("printed", "UserWarning: of Python", "Warning: logged", "written past Python", "by a worker"):
        assert text in shown.words, text
        assert shown.text.index(text.split()[-1]) < shown.text.index("Epoch 1/2: accuracy/top1")
    assert shown.text.count("batch 6/6") == 1  # no state is left behind but the last
    assert "batch 2/6" not in shown.text


@pytest.mark.parametrize(("width", "height"), [(40, 24), (80, 4)])
def test_display_fits_into_a_small_terminal(width, height, crops, tmp_path):
    shown = Terminal(train(crops, tmp_path, options={"train_cfg.max_epochs": 1}), width=width, height=height)
    assert shown.code == 0, shown.text
    assert shown.showed("Epoch 1/1, batch 5/6")
    assert shown.text.count("batch") == 1
    if height > 4:
        assert shown.showed("batch 6/6", "loss ", "memory ", "Validation 2/3")


@pytest.mark.parametrize("where", ["pipe", "dumb terminal"])
def test_without_a_screen_there_are_plain_lines(where, crops, tmp_path, capfd):
    if where == "pipe":
        train(crops, tmp_path)()
        text = capfd.readouterr().out
    else:
        shown = Terminal(train(crops, tmp_path), width=400, term="dumb")
        assert shown.code == 0
        assert b"\x1b[J" not in shown.raw
        assert b"\r\x1b" not in shown.raw
        text = shown.text
    assert text.count("Epoch(train)") == 12
    assert text.count("accuracy/top1: ") == 2
    assert "Training ImageClassifier on ConvNeXt" in text
    assert "batch 1/6" not in text
    for only in (*ONLY_IN_THE_FILE, '"FileClient" will be deprecated'):
        assert only.strip() not in text
        assert only in log_of(tmp_path)


def test_test_shows_its_progress_and_its_metrics(crops, tmp_path):
    train(crops, tmp_path / "run", options={"train_cfg.max_epochs": 1})()
    checkpoint = str(tmp_path / "run/epoch_1.pth")
    shown = Terminal(lambda: evaluate_model(CONFIG, checkpoint, SMALL, data=crops, work_dir=str(tmp_path / "test")))
    assert shown.code == 0, shown.text
    assert "Testing ImageClassifier" in shown.text
    assert "Data: 12 test images, 6 classes." in shown.text
    assert shown.showed("Test 2/3")
    value = re.search(r"Epoch\(test\).*accuracy/top1: (\S+)", log_of(tmp_path / "test"))[1]
    assert f"Test: accuracy/top1 {float(value):.4f}" in shown.text
    assert "Test 3/3" not in shown.text


def test_state_of_a_run_by_hand(monkeypatch):
    """The middle of the second epoch, after 9 of 12 iterations; 0.5 s for batches of 4 in 2 processes."""
    hub, processor = MessageHub("by hand"), LogProcessor(window_size=2)
    for time_, loss in ((9.0, 9.0), (0.25, 3.0), (0.75, 2.0)):
        hub.update_scalars({"train/time": time_, "train/loss": loss, "train/lr": 0.1})
    hub.update_info("eta", 61)
    hub.update_info("best_score", 0.75)
    hook = CheckpointHook(save_best="top1", rule="greater")
    loader = type("Loader", (), {"__len__": lambda self: 6, "batch_size": 4, "batch_sampler": None})()
    runner = SimpleNamespace(
        epoch=1, iter=9, max_epochs=2, max_iters=12, train_dataloader=loader, val_dataloader=loader
    )
    runner.message_hub, runner.log_processor, runner.hooks = hub, processor, [hook]
    clock = [100.0]
    monkeypatch.setattr(live_display_hook, "get_world_size", lambda: 2)
    monkeypatch.setattr(live_display_hook, "_memory", lambda: 2_500_000_000)
    monkeypatch.setattr(live_display_hook.time, "monotonic", lambda: clock[0])
    printed = []
    monkeypatch.setattr(terminal, "print_line", printed.append)

    def shown():
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(display._render())
        return " ".join(console.export_text().split())

    display = LiveDisplayHook()
    display.before_train(runner)
    assert "Epoch 2/2, batch 3/6" in shown()
    display.after_train_iter(runner, 3)
    for text in ("batch 4/6", "0:01:01 left", "16.0 images/s", "lr 1.0000e-01", "loss 2.5000", "memory 2.5 GB"):
        assert text in shown()
    assert "best top1 0.7500" in shown()
    display.before_val_epoch(runner)
    clock[0] += 8.0
    display.after_val_iter(runner, 1)
    assert "Validation 2/6 " in shown()
    assert "0:00:16 left" in shown().partition("Validation")[2]  # two batches in 8 s, four to go
    display.after_val_epoch(runner, dict(other=1.0, top1=0.75, last="x"))
    display.after_val_epoch(runner, dict(top1=0.5, **{f"metric_{number}": 0.5 for number in range(20)}))
    first, second = printed
    assert first.split("  ")[:2] == ["Epoch 2/2: top1 0.7500 (best so far)", "other 1.0000"]
    assert second.startswith("Epoch 2/2: top1 0.5000  metric_0 0.5000")
    assert len(second) <= max(terminal.console().width, 80)
    runner.epoch, runner.iter = 2, 12
    display.after_train_iter(runner, 5)
    assert "Epoch 2/2, batch 6/6" in shown()


@pytest.mark.slow
def test_mlflow_and_the_display_stand_each_other(crops, tmp_path):
    """mmengine's backend looks at the stream of every handler of the log."""
    shown = Terminal(train(crops, tmp_path, options={"train_cfg.max_epochs": 1}, log=["mlflow"]))
    assert shown.code == 0, shown.text
    assert "Epoch 1/1" in shown.text
    assert (tmp_path / "mlflow.db").is_file()
