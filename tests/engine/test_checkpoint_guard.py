"""Checkpoints that mmengine's Runner loads or resumes are compared with the model like all others."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from convnext_dense.checkpoints import convert_state_dict
from convnext_dense.models import ConvNeXt

SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))
GUARD = dict(type="convnext_dense.CheckpointGuardHook")


class Detector(BaseModel):
    """A backbone and one layer after it."""

    def __init__(self, **backbone):
        super().__init__()
        self.backbone = ConvNeXt(SMALL, **backbone)
        self.head = nn.Linear(64, 2)

    def forward(self, inputs, mode="loss"):
        pooled = self.backbone(torch.stack(inputs))[-1].mean((2, 3))
        return {"loss": self.head(pooled).square().mean()}


def build_runner(model, tmp_path, **settings):
    return Runner(
        model=model,
        work_dir=str(tmp_path / "run"),
        train_dataloader=DataLoader(
            [dict(inputs=torch.rand(3, 32, 32))] * 2, collate_fn=lambda items: dict(inputs=[x["inputs"] for x in items])
        ),
        train_cfg=dict(by_epoch=True, max_epochs=settings.pop("max_epochs", 1)),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        custom_hooks=[GUARD],
        default_scope="mmengine",
        **settings,
    )


@pytest.fixture
def trained():
    torch.manual_seed(1)
    model = Detector()
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(std=0.1)
    return model


def foreign(model):
    """The detector's state dict with mmpretrain's names in its backbone."""
    weights = model.state_dict()
    body = {name: tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    return convert_state_dict(body, "mmpretrain") | {k: v for k, v in weights.items() if k.startswith("head.")}


def test_load_from_renames_the_backbone_and_logs_one_line(trained, tmp_path, caplog):
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": foreign(trained), "meta": {}}, path)
    model = Detector()
    runner = build_runner(model, tmp_path, load_from=str(path))
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        runner.load_or_resume()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    lines = [message for message in caplog.messages if message.startswith("Loaded ")]
    total = len(trained.state_dict())
    assert len(lines) == 1
    assert lines[0].startswith(f"Loaded {total} of {total} tensors from {path}: 0 output norms are new, 0 missing, ")
    assert "layout mmpretrain, sha256 " in lines[0]
    assert "not known" not in lines[0]


class Averaged(BaseTTAModel):
    """Test-time augmentation, as --tta puts it around a model."""

    def merge_preds(self, data_samples_list):
        return data_samples_list


def test_model_inside_test_time_augmentation_is_filled(trained, tmp_path):
    torch.save({"state_dict": foreign(trained)}, tmp_path / "detector.pth")
    model = Averaged(Detector())
    build_runner(model, tmp_path, load_from=str(tmp_path / "detector.pth")).load_or_resume()
    assert torch.equal(model.module.backbone.stages[2][2].gamma, trained.backbone.stages[2][2].gamma)


def test_load_from_with_a_missing_tensor_stops_the_run(trained, tmp_path):
    weights = trained.state_dict()
    del weights["head.bias"]
    torch.save({"state_dict": weights}, tmp_path / "detector.pth")
    runner = build_runner(Detector(), tmp_path, load_from=str(tmp_path / "detector.pth"))
    with pytest.raises(ValueError, match=r"1 missing.* fit: head\.bias\. The file is incomplete\."):
        runner.load_or_resume()


def test_resumed_run_logs_what_it_loaded_and_from_where(tmp_path, caplog):
    build_runner(Detector(), tmp_path).train()
    MMLogger._instance_dict.clear()
    runner = build_runner(Detector(), tmp_path, resume=True, max_epochs=2)
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        runner.train()
    total = len(runner.model.state_dict())
    line = next(message for message in caplog.messages if message.startswith("Loaded "))
    assert line.startswith(f"Loaded {total} of {total} tensors from {tmp_path / 'run' / 'epoch_1.pth'}: ")


def test_moving_average_starts_from_the_renamed_checkpoint(trained, tmp_path):
    torch.save({"state_dict": foreign(trained)}, tmp_path / "detector.pth")
    runner = build_runner(Detector(), tmp_path, load_from=str(tmp_path / "detector.pth"))
    runner.register_hook(dict(type="EMAHook"))
    runner.call_hook("before_run")
    runner.load_or_resume()
    average = next(hook for hook in runner.hooks if type(hook).__name__ == "EMAHook").ema_model.module
    assert torch.equal(average.backbone.stages[2][2].gamma, trained.backbone.stages[2][2].gamma)


def test_training_with_a_frozen_random_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"frozen_stages=1 would keep \d+ tensors at their random initial values"):
        build_runner(Detector(frozen_stages=1), tmp_path).train()


@pytest.mark.parametrize("way", ["load_from", "resume", "init_cfg"])
def test_training_with_a_frozen_loaded_stage_is_accepted(trained, tmp_path, way):
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": foreign(trained)}, path)
    if way == "init_cfg":
        model = Detector(frozen_stages=1, init_cfg=dict(type="Pretrained", checkpoint=str(path)))
        settings = {}
    elif way == "load_from":
        model, settings = Detector(frozen_stages=1), dict(load_from=str(path))
    else:
        build_runner(Detector(), tmp_path).train()
        MMLogger._instance_dict.clear()
        model, settings = Detector(frozen_stages=1), dict(resume=True, max_epochs=2)
    runner = build_runner(model, tmp_path, **settings)
    runner.train()
    assert runner.iter > 0
