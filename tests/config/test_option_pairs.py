"""Options that work alone but not together: they run, or one sentence names the key before the first iteration."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.config.option_pairs import fit_loaders
from convnext_dense.engine import SingleValueHook, train_model

CONFIG = """
model = dict(type="Pooled")
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type="Maps"),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
param_scheduler = [dict(type="LinearLR", start_factor=0.5, end=2)]
default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1))
randomness = dict(seed=0)
custom_hooks = []
load_from = None
resume = False
"""
BY_ITERATION = {"train_cfg": dict(_delete_=True, type="IterBasedTrainLoop", max_iters=2)}


@MODELS.register_module(force=True)
class Pooled(BaseModel):
    """A batch norm on whole maps, and one after their mean, as in pyramid pooling."""

    def __init__(self, track=True):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.pooled = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=track))

    def forward(self, inputs, mode="tensor"):
        maps = self.norm(torch.stack(inputs))
        pooled = self.pooled(maps.mean((2, 3), keepdim=True))
        return dict(loss=(maps + pooled).square().mean())


@DATASETS.register_module(force=True)
class Maps(Dataset):
    """Random images of 4 x 4 pixels."""

    metainfo = {}  # noqa: RUF012

    def __init__(self, size=5):
        self.maps = torch.rand(size, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        return dict(inputs=self.maps[index])


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "pooled.py"
    path.write_text(CONFIG)
    return path


def train(config, options=None, **kwargs):
    work_dir = config.parent / "run"
    train_model(config, options, work_dir=str(work_dir), **kwargs)
    return "\n".join(path.read_text() for path in sorted(Path(work_dir).rglob("*.log")))


@pytest.mark.parametrize(
    ("options", "num_updates"),
    # Five images: every batch has one image, the last of three batches has one, or no batch has one.
    [({"train_dataloader.batch_size": 1}, 0), ({}, 2), ({"train_dataloader.batch_size": 5}, 1)],
)
def test_batch_of_one_trains_on_running_statistics_after_pooling(config, options, num_updates):
    log = train(config, options)
    weights = read_checkpoint(config.parent / "run/epoch_1.pth")["state_dict"]
    num_batches = {1: 5, 5: 1}.get(options.get("train_dataloader.batch_size"), 3)
    assert weights["norm.num_batches_tracked"] == num_batches
    assert weights["pooled.1.num_batches_tracked"] == num_updates
    if not num_updates:  # never updated: mean 0 and deviation 1, but scale and shift are trained
        assert weights["pooled.1.running_mean"].eq(0).all()
        assert not weights["pooled.1.bias"].eq(0).all()
    told = "pooled.1 has a single value per channel in a batch of one image"
    assert log.count(told) == int(num_updates < num_batches)


def test_norm_without_running_statistics_names_the_batch_size(config):
    options = {"+model.track": False, "train_dataloader.batch_size": 1}
    with pytest.raises(ValueError, match=r"pooled\.1 has a single value.*train_dataloader\.batch_size to 2"):
        train(config, options)


def test_batch_of_two_after_a_batch_of_one_updates_statistics_again():
    model, hook = Pooled().train(), SingleValueHook()
    runner = SimpleNamespace(model=model, logger=logging.getLogger("test"))
    hook.before_train(runner)
    for size, num_updates in ((1, 0), (2, 1), (1, 1)):
        model([torch.rand(3, 4, 4)] * size)
        assert model.pooled[1].num_batches_tracked == num_updates
        assert all(module.training for module in model.modules())
    hook.after_train(runner)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):  # torch's own again
        model([torch.rand(3, 4, 4)])


def test_worker_options_have_no_effect_without_workers(config):
    options = {
        "+train_dataloader.persistent_workers": True,
        "+train_dataloader.prefetch_factor": 4,
        "+train_dataloader.timeout": 10,
    }
    assert "num_workers=0: persistent_workers, prefetch_factor, timeout have no effect" in train(config, options)


def test_worker_options_are_kept_with_workers_and_in_unread_loaders():
    sampler = dict(type="DefaultSampler")
    loader = dict(sampler=sampler, num_workers=1, persistent_workers=True, prefetch_factor=2)
    unread = dict(num_workers=-1)
    cfg = Config(dict(train_dataloader=dict(loader), test_dataloader=dict(unread)))
    assert fit_loaders(cfg, ("train", "val")) == []
    assert cfg.train_dataloader == loader


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"train_dataloader.num_workers": -1}, r"train_dataloader\.num_workers=-1 must be a whole number, 0 or more"),
        ({"train_dataloader.batch_size": 0}, r"train_dataloader\.batch_size=0 must be a whole number, 1 or more"),
        ({"train_dataloader.batch_size": 1.5}, r"train_dataloader\.batch_size=1\.5 must be a whole number"),
        (
            {"train_dataloader.num_workers": 1, "+train_dataloader.prefetch_factor": 0},
            r"train_dataloader\.prefetch_factor=0 must be a whole number, 1 or more",
        ),
        (
            {"+train_dataloader.shuffle": True},
            r"shuffle=True .* set train_dataloader\.sampler\.shuffle",
        ),
        (
            {"train_dataloader": dict(_delete_=True, batch_size=2, dataset=dict(type="Maps"))},
            "train_dataloader has no sampler",
        ),
        ({"+train_dataloader.pin_memry": True}, "pin_memry.*Correct it in the config"),
        (
            {"+train_dataloader.drop_last": True, "train_dataloader.batch_size": 8},
            r"train_dataloader has no batch: 5 images .* batch_size=8",
        ),
        ({"+train_dataloader.dataset.size": 0}, "train_dataloader has no batch: 0 images"),
        ({"train_cfg.max_epochs": 0}, r"train_cfg\.max_epochs=0 must be a whole number, 1 or more"),
        ({"+train_cfg.val_interval": 0}, r"train_cfg\.val_interval=0 must be a whole number, 1 or more"),
        (
            {"train_cfg": dict(_delete_=True, by_epoch=False, max_iters=0), "param_scheduler": []},
            r"train_cfg\.max_iters=0",
        ),
        (BY_ITERATION, r"param_scheduler\.0 counts epochs .*set param_scheduler\.0\.by_epoch=False"),
        ({"train_cfg.type": "IterBasedTrainLoop", "param_scheduler": []}, "max_iters.*Correct it in the config"),
        (
            {"+val_dataloader": dict(batch_size=1, sampler=None)},
            "val_dataloader, val_cfg, and val_evaluator should be",
        ),
        ({"custom_hooks": [dict(type="EMAHook", begin_epoch=5)]}, "begin_epoch.*Correct it in the config"),
    ],
)
def test_pair_that_cannot_run_is_reported_before_the_first_iteration(config, options, text):
    with pytest.raises(ValueError, match=text):
        train(config, options)
    assert not list((config.parent / "run").glob("*.pth"))


def test_checkpoints_by_epoch_in_a_run_by_iteration_are_reported(config):
    log = train(config, {**BY_ITERATION, "param_scheduler": []})
    assert "default_hooks.checkpoint counts epochs, but train_cfg iterations" in log


def written(config):
    return Config.fromfile(config.parent / "run" / config.name)


def test_written_config_starts_a_new_run(config):
    """It contains neither the resume nor the resumed checkpoint, but what the user starts from."""
    train(config)
    start = shutil.copy(config.parent / "run/epoch_1.pth", config.parent / "start.pth").as_posix()
    log = train(config, {"train_cfg.max_epochs": 2, "load_from": start}, resume="auto")
    assert (
        f"resumes from {config.parent}/run/epoch_1.pth; load_from={start}, from which it started, is not loaded" in log
    )
    assert (written(config).resume, written(config).load_from, written(config).launcher) == (False, start, "none")
    assert [hook.type for hook in written(config).custom_hooks].count("convnext_dense.CheckpointGuardHook") == 1
    again = config.parent / "again"
    train_model(config.parent / "run" / config.name, {"load_from": None}, work_dir=str(again))
    assert read_checkpoint(again / "epoch_1.pth")["meta"]["iter"] == 3
    hooks = Config.fromfile(again / config.name).custom_hooks
    assert len(hooks) == len({hook.type for hook in hooks})


def test_resume_in_a_config_means_what_it_does_in_mmengine(config):
    train(config)
    log = train(config, {"train_cfg.max_epochs": 2, "resume": True})
    assert "resumed epoch: 1, iter: 3" in log


def test_first_start_with_resume_begins_with_load_from(config, capfd):
    train(config)
    start = str(config.parent / "run/epoch_1.pth")
    work_dir = config.parent / "second"
    train_model(config, {"load_from": start}, work_dir=str(work_dir), resume="auto")
    assert f"training starts with the weights of load_from={start}" in capfd.readouterr().out
    assert read_checkpoint(work_dir / "epoch_1.pth")["meta"]["iter"] == 3
