"""A model with two optimizers, like a GAN, saves, resumes and is checked like a model with one."""

import os
import signal

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.utils.data import Dataset

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.engine import train_model

CONFIG = """
model = dict(type="TwoOptimizers")
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(type="Numbers"),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2)
optim_wrapper = dict(
    constructor="BodyAndHead",
    body=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9), accumulative_counts=COUNTS),
    head=dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=0.01), accumulative_counts=COUNTS),
)
param_scheduler = dict(
    body=[dict(type="LinearLR", start_factor=0.5, by_epoch=False, begin=0, end=8)],
    head=[dict(type="ConstantLR", factor=0.5, by_epoch=False, begin=0, end=4)],
)
default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1))
randomness = dict(seed=0)
custom_hooks = []
"""


@MODELS.register_module(force=True)
class TwoOptimizers(BaseModel):
    """Each part has its own loss, and neither is named `loss`."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, inputs, mode="tensor"):
        return self.head(self.body(torch.stack(inputs)))

    def train_step(self, data, optim_wrapper):
        outputs = self(**self.data_preprocessor(data, training=True))
        loss_head, loss_body = outputs.square().mean(), outputs.abs().mean()
        (optim_wrapper["head"].scale_loss(loss_head)).backward(retain_graph=True, inputs=list(self.head.parameters()))
        (optim_wrapper["body"].scale_loss(loss_body)).backward(inputs=list(self.body.parameters()))
        for name in ("head", "body"):
            wrapper = optim_wrapper[name]
            wrapper._inner_count += 1
            if wrapper.should_update():
                wrapper.step()
                wrapper.zero_grad()
        return dict(loss_head=loss_head, loss_body=loss_body)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class BodyAndHead:
    """One optimizer per part of the model."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.parts = optim_wrapper_cfg

    def __call__(self, model):
        return OptimWrapperDict(
            **{name: build_optim_wrapper(getattr(model, name), dict(part)) for name, part in self.parts.items()}
        )


@DATASETS.register_module(force=True)
class Numbers(Dataset):
    """Eight points, one of which may be NaN."""

    metainfo = {}  # noqa: RUF012

    def __init__(self, bad=None):
        self.points = torch.arange(16.0).reshape(8, 2) / 16
        if bad is not None:
            self.points[bad] = torch.nan

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return dict(inputs=self.points[index])


@HOOKS.register_module(force=True)
class LeaveAt(Hook):
    """Sends its own process SIGTERM before an iteration."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(params=[1, 2], ids=["every_batch", "two_batches_per_step"])
def config(request, tmp_path):
    path = tmp_path / "two.py"
    path.write_text(CONFIG.replace("COUNTS", str(request.param)))
    return path


def train(config, work_dir, options=None, **kwargs):
    MMLogger._instance_dict.clear()
    MessageHub._instance_dict.clear()  # runs of the same second have the same name
    train_model(config, options, work_dir=str(work_dir), **kwargs)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(config, at, tmp_path):
    train(config, tmp_path / "whole")
    with pytest.raises(SystemExit, match="75"):
        train(config, tmp_path / "run", {"custom_hooks": [dict(type="LeaveAt", at=at)]})
    assert read_checkpoint(tmp_path / "run/interrupted.pth")["meta"]["iter"] == at + 1
    train(config, tmp_path / "run", resume="auto")
    ends = [read_checkpoint(tmp_path / name / "epoch_2.pth") for name in ("whole", "run")]
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][name]), name
    for name in ("body", "head"):
        states = [end["optimizer"][name] for end in ends]
        assert states[0]["param_groups"] == states[1]["param_groups"]
        for index, state in states[0]["state"].items():
            for key, value in state.items():
                assert torch.equal(value, states[1]["state"][index][key])


def test_another_learning_rate_of_one_of_them_is_refused(config, tmp_path):
    train(config, tmp_path, {"train_cfg.max_epochs": 1})
    for options, text in [
        (
            {"optim_wrapper.head.optimizer.lr": 0.02},
            "initial_lr of parameter group 0 of head is 0.01 in the checkpoint, 0.02 in the config",
        ),
        (
            {"optim_wrapper.body.optimizer.weight_decay": 0.1},
            "+weight_decay of parameter group 0 of body is 0 in the checkpoint",
        ),
        (
            {"param_scheduler.head.0.factor": 0.1},
            "factor of param_scheduler.0 of head is 0.5 in the checkpoint, 0.1 in the config",
        ),
        ({"param_scheduler.body": []}, "1 schedulers of body in the checkpoint, 0 in the config"),
    ]:
        key = next(iter(options))
        options = {f"+{key}" if text.startswith("+") else key: options[key]}
        with pytest.raises(ValueError, match=text.removeprefix("+")):
            train(config, tmp_path, options, resume="auto")


def test_checkpoint_of_one_optimizer_cannot_resume_two(config, tmp_path):
    train(config, tmp_path, {"train_cfg.max_epochs": 1})
    content = read_checkpoint(tmp_path / "epoch_1.pth")
    content["optimizer"] = content["optimizer"]["head"]
    torch.save(content, tmp_path / "one.pth")
    with pytest.raises(ValueError, match="its optimizers are one in the checkpoint, 'body', 'head' in the config"):
        train(config, tmp_path, resume=str(tmp_path / "one.pth"))


def test_nonfinite_gradients_end_the_run_before_any_weight_changes(config, tmp_path):
    with pytest.raises(ValueError, match=r"gradients of optimizer head is nan.*weights before this step"):
        train(config, tmp_path, {"+train_dataloader.dataset.bad": 3})
    saved = read_checkpoint(tmp_path / "interrupted.pth")
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


def test_nonfinite_loss_with_another_name_ends_the_run(config, tmp_path, monkeypatch):
    step = TwoOptimizers.train_step
    monkeypatch.setattr(
        TwoOptimizers, "train_step", lambda self, *args, **kwargs: dict(step(self, *args, **kwargs), loss_x=torch.nan)
    )
    with pytest.raises(ValueError, match="The loss_x is nan at iteration 1"):
        train(config, tmp_path)


def test_effective_batch_and_precision_reach_every_optimizer(config, tmp_path):
    train(config, tmp_path, {"effective_batch": 8, "train_cfg.max_epochs": 1}, amp=True)
    text = (tmp_path / "two.py").read_text()
    assert text.count("accumulative_counts=4") == 2
    assert text.count("type='OptimWrapper'") == 2
