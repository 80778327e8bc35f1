"""Checkpoints are written atomically, a run survives a failed write, and the newest whole checkpoint is found."""

import errno
import logging
import os
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.engine.resuming import find_whole_checkpoint
from convnext_dense.files import written_whole


class Linear(BaseModel):
    """One weight; its "accuracy" in validation is given by the test."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, mode="loss"):
        loss = self.layer(torch.stack(inputs)).square().mean()
        return {"loss": loss} if mode == "loss" else [loss]


class Scores:
    """Stands in for mmengine's Evaluator and returns the next of the given scores at every validation."""

    dataset_meta = None

    def __init__(self, scores):
        self.scores = iter(scores)

    def process(self, data_samples, data_batch):
        pass

    def evaluate(self, size):
        return {"acc": next(self.scores)}


def make_runner(work_dir, *, epochs=4, scores=(), checkpoint=None, **settings):
    MMLogger._instance_dict.clear()
    MessageHub._instance_dict.clear()  # runs of the same second have the same name
    data = DataLoader([torch.rand(2)] * 2, collate_fn=lambda items: dict(inputs=items))
    validation = {}
    if scores:
        runner_scores = Scores(scores)
        validation = dict(val_dataloader=data, val_cfg={}, val_evaluator=[])
    runner = Runner(
        model=Linear(),
        work_dir=str(work_dir),
        train_dataloader=data,
        train_cfg=dict(type="convnext_dense.EpochBasedTrainLoop", max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=dict(type="convnext_dense.CheckpointHook", interval=1, **(checkpoint or {}))),
        default_scope="mmengine",
        **validation,
        **settings,
    )
    if scores:
        runner.val_loop.evaluator = runner_scores
    return runner


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full for the n-th files flushed to it, counted from 1; folders do not count."""
    flush = os.fsync

    class Disk:
        full_at = ()
        num_files = 0

    def fsync(descriptor):
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            Disk.num_files += 1
            if Disk.num_files in Disk.full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr("convnext_dense.files.os.fsync", fsync)
    return Disk


def test_file_keeps_its_content_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(file) as partial:  # noqa: PT012
        partial.write_text("new, but not")
        assert file.read_text() == "old"
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"
    with written_whole(file) as partial:
        partial.write_text("new")
    assert file.read_text() == "new"


def test_full_disk_costs_one_checkpoint_but_not_the_run(disk, tmp_path, caplog):
    disk.full_at = (3,)  # the checkpoint of the second epoch; each is followed by the pointer
    runner = make_runner(tmp_path, checkpoint=dict(max_keep_ckpts=1), epochs=2)
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.ERROR):
        runner.train()
    first = str(tmp_path / "epoch_1.pth")
    assert f"No space left on device). The last whole checkpoint is {first}; the run goes on" in caplog.text
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_1.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == first
    assert not list(tmp_path.glob(".*.partial"))
    assert read_checkpoint(first)["meta"]["epoch"] == 1

    make_runner(tmp_path, checkpoint=dict(max_keep_ckpts=1), resume=True).train()
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_4.pth"]
    assert read_checkpoint(tmp_path / "epoch_4.pth")["message_hub"]["runtime_info"]["keep_ckpt_ids"] == [4]


def test_second_failure_in_a_row_ends_the_run_and_names_the_last_whole_checkpoint(disk, tmp_path):
    disk.full_at = (3, 4)
    match = r"No space left .* last whole checkpoint is .*epoch_1\.pth\. This is the second failure in a row"
    with pytest.raises(ValueError, match=match):
        make_runner(tmp_path).train()
    assert find_whole_checkpoint(tmp_path) == (tmp_path / "epoch_1.pth", [])


def test_old_checkpoints_are_removed_only_after_the_new_one_is_written(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def record(source, target):
        seen.append({path.name for path in tmp_path.glob("*.pth")})
        replace(source, target)

    monkeypatch.setattr("convnext_dense.files.os.replace", record)
    save_best = dict(max_keep_ckpts=1, save_best="acc", rule="greater")
    make_runner(tmp_path, checkpoint=save_best, epochs=3, scores=(0.1, 0.2, 0.05)).train()
    assert {"epoch_1.pth", "best_acc_epoch_1.pth"} in seen  # while those of the second epoch were being written
    assert {path.name for path in tmp_path.glob("*.pth")} == {"epoch_3.pth", "best_acc_epoch_2.pth"}


def test_best_score_and_file_survive_a_failed_write_and_a_resume(disk, tmp_path):
    save_best = dict(save_best="acc", rule="greater")
    # Epoch 1: checkpoint, pointer; best, checkpoint again with it, pointer. Epoch 2: checkpoint, pointer; best.
    disk.full_at = (8,)
    make_runner(tmp_path, checkpoint=save_best, epochs=2, scores=(0.5, 0.6)).train()
    assert (tmp_path / "best_acc_epoch_1.pth").is_file()
    assert read_checkpoint(tmp_path / "epoch_2.pth")["message_hub"]["runtime_info"]["best_score"] == 0.5

    # The validation after epoch 2 is not in its checkpoint: it is repeated. Then 0.55 is better and 0.52 is not.
    make_runner(tmp_path, checkpoint=save_best, epochs=4, scores=(0.4, 0.55, 0.52), resume=True).train()
    assert [path.name for path in tmp_path.glob("best_*")] == ["best_acc_epoch_3.pth"]
    info = read_checkpoint(tmp_path / "epoch_4.pth")["message_hub"]["runtime_info"]
    assert info["best_score"] == 0.55
    assert Path(info["best_ckpt"]).name == "best_acc_epoch_3.pth"


def test_resumed_run_leaves_the_files_of_another_folder_alone(tmp_path):
    save_best = dict(save_best="acc", rule="greater")
    make_runner(tmp_path / "a", checkpoint=save_best, epochs=2, scores=(0.5, 0.4)).train()
    before = sorted(path.name for path in (tmp_path / "a").glob("*.pth"))
    assert "best_acc_epoch_1.pth" in before
    source = str(tmp_path / "a/epoch_2.pth")
    make_runner(
        tmp_path / "b", checkpoint=save_best, epochs=3, scores=(0.4, 0.6), resume=True, load_from=source
    ).train()
    assert sorted(path.name for path in (tmp_path / "a").glob("*.pth")) == before
    assert (tmp_path / "b/best_acc_epoch_3.pth").is_file()


def test_best_file_is_replaced_under_another_spelling_of_its_folder(tmp_path, monkeypatch):
    save_best = dict(save_best="acc", rule="greater")
    make_runner(tmp_path / "a", checkpoint=save_best, epochs=1, scores=(0.5,)).train()
    monkeypatch.chdir(tmp_path)
    make_runner("a", checkpoint=save_best, epochs=2, scores=(0.6,), resume=True).train()
    assert [path.name for path in (tmp_path / "a").glob("best_*")] == ["best_acc_epoch_2.pth"]


def test_complete_run_says_that_nothing_is_left(tmp_path):
    make_runner(tmp_path, epochs=2).train()
    make_runner(tmp_path, epochs=2, resume=True).train()
    log = max(tmp_path.glob("*/*.log"), key=lambda path: path.stat().st_mtime).read_text()
    assert "Nothing is left to train: 2 of 2 epochs are done." in log


def test_failures_are_in_a_row_even_if_a_validation_between_them_writes_nothing(disk, tmp_path):
    # Epoch 1: checkpoint, pointer; best, checkpoint, pointer. Epochs 2 and 3: checkpoint.
    disk.full_at = (6, 7)
    with pytest.raises(ValueError, match="second failure in a row"):
        make_runner(tmp_path, checkpoint=dict(save_best="acc", rule="greater"), scores=(0.5, 0.1, 0.2)).train()


def test_best_file_that_no_checkpoint_refers_to_is_removed(disk, tmp_path):
    # Epoch 1: checkpoint, pointer; best, checkpoint, pointer. Epoch 2: checkpoint, pointer; best, checkpoint.
    disk.full_at = (9,)
    make_runner(tmp_path, checkpoint=dict(save_best="acc", rule="greater"), epochs=2, scores=(0.5, 0.6)).train()
    assert [path.name for path in tmp_path.glob("best_*")] == ["best_acc_epoch_1.pth"]


def test_partial_files_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".epoch_1.pth.partial").write_bytes(b"half")
    make_runner(tmp_path, epochs=1).train()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["truncated", "bits", "gone"])
def test_damaged_checkpoint_is_skipped_and_named(damage, tmp_path):
    make_runner(tmp_path, epochs=2).train()
    newest = tmp_path / "epoch_2.pth"
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "bits":
        weight = read_checkpoint(newest)["state_dict"]["layer.weight"].numpy().tobytes()
        content[content.index(weight)] ^= 1
        newest.write_bytes(content)
    else:
        newest.unlink()
    path, notes = find_whole_checkpoint(tmp_path)
    assert path == tmp_path / "epoch_1.pth"
    assert len(notes) == 1
    assert str(newest) in notes[0]


def test_folder_of_damaged_checkpoints_is_refused(tmp_path):
    (tmp_path / "epoch_1.pth").write_bytes(b"\x80half")
    (tmp_path / "best_acc_epoch_1.pth").write_bytes(b"never resumed from")
    with pytest.raises(ValueError, match=r"delete them to start over\. .*epoch_1\.pth is skipped: .* is damaged"):
        find_whole_checkpoint(tmp_path)


def test_folder_without_checkpoints_has_none(tmp_path):
    assert find_whole_checkpoint(tmp_path) == (None, [])
