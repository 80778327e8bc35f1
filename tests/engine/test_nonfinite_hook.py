"""The first loss or gradient that is not finite ends a run, which saves the weights before it and the batches."""

import logging

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn
from torch.utils.data import Dataset

from convnext_dense.checkpoints import read_checkpoint
from convnext_dense.engine import NonFiniteHook
from convnext_dense.engine.nonfinite_hook import _plain


class Numbers(Dataset):
    """Numbers 0 to 7, as images of classes."""

    samples = [(f"image_{number}.jpg", 0) for number in range(8)]  # noqa: RUF012

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.full((2,), float(index)))


class Model(BaseModel):
    """For one image, has a finite loss with an infinite gradient, or a loss that is NaN."""

    def __init__(self, bad_image=5, kind="gradient"):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.bad_image, self.kind = bad_image, kind

    def forward(self, inputs, mode="loss"):
        inputs = torch.stack(list(inputs))
        score = self.layer(inputs).mean()
        bad = bool((inputs == self.bad_image).any())
        if bad and self.kind == "gradient":
            return {"loss_a": score.square(), "loss_b": (score - score.detach()).abs().sqrt()}  # slope at 0
        return {"loss_a": score.square(), "loss_b": score * (float("nan") if bad else 0)}


def make_runner(work_dir, model, hook, *, counts=1, clip=None):
    MMLogger._instance_dict.clear()
    MessageHub._instance_dict.clear()  # runs of the same second have the same name
    wrapper = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=counts)
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Numbers(), batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False)
        ),
        train_cfg=dict(type="convnext_dense.EpochBasedTrainLoop", max_epochs=1),
        optim_wrapper={**wrapper, **({"clip_grad": clip} if clip else {})},
        default_hooks=dict(checkpoint=dict(type="convnext_dense.CheckpointHook", interval=1)),
        custom_hooks=[hook] if hook else [],
        randomness=dict(seed=3),
        default_scope="mmengine",
    )


@pytest.mark.parametrize("clip", [None, dict(max_norm=1.0), dict(clip_value=1.0, type="value")])
@pytest.mark.parametrize("kind", ["gradient", "loss"])
def test_run_ends_before_the_step_with_everything_to_replay_it(kind, clip, tmp_path):
    torch.manual_seed(0)
    model = Model(kind=kind)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text = r"gradients is nan at iteration 6.*image_5\.jpg.*The weights before this step are in .*interrupted\.pth"
    with pytest.raises(ValueError, match=text):
        make_runner(tmp_path / "run", model, NonFiniteHook(), clip=clip).train()

    saved = read_checkpoint(tmp_path / "run/interrupted.pth")
    assert saved["meta"]["iter"] == 5
    undisturbed = Model(bad_image=-1, kind=kind)
    undisturbed.load_state_dict(start)
    optimizer = torch.optim.SGD(undisturbed.parameters(), 0.1)
    for number in range(5):
        optimizer.zero_grad()
        sum(undisturbed(torch.full((1, 2), float(number))).values()).backward()
        if clip and "max_norm" in clip:
            nn.utils.clip_grad_norm_(undisturbed.parameters(), 1.0)
        elif clip:
            nn.utils.clip_grad_value_(undisturbed.parameters(), 1.0)
        optimizer.step()
    for name, param in undisturbed.named_parameters():
        assert torch.allclose(saved["state_dict"][name], param, atol=1e-6), name

    (file,) = (tmp_path / "run/nonfinite").iterdir()
    record = torch.load(file, weights_only=True)
    assert (record["seed"], record["iter"], record["files"]) == (3, 5, [["image_5.jpg"]])
    assert torch.equal(torch.stack(record["batches"][0]["inputs"]), torch.full((1, 2), 5.0))
    assert record["losses"]["loss_b"].isnan() == (kind == "loss")


def test_loss_is_found_in_the_middle_of_an_accumulated_step(tmp_path):
    model = Model(bad_image=4, kind="loss")
    with pytest.raises(ValueError, match=r"The loss is nan at iteration 5 \(loss_b is nan\).*image_4\.jpg"):
        make_runner(tmp_path, model, NonFiniteHook(), counts=4).train()
    assert read_checkpoint(tmp_path / "interrupted.pth")["meta"]["iter"] == 4


class Scaler:
    """Stands in for torch's GradScaler, which skips the optimizer step if gradients overflow."""

    def __init__(self, optimizer, overflows):
        self.optimizer, self.overflows = optimizer, iter(overflows)

    def is_enabled(self):
        return True

    def get_scale(self):
        return 4.0

    def step(self):
        if not next(self.overflows):
            self.optimizer.step()


@pytest.mark.parametrize(("overflows", "ends"), [((1, 1, 0, 1, 1, 0, 0, 0), False), ((0, 1, 1, 1), True)])
def test_a_limited_number_of_skipped_steps_is_tolerated(overflows, ends, tmp_path, caplog):
    hook = NonFiniteHook(max_skipped_steps=2)
    runner = make_runner(tmp_path, Model(bad_image=-1), hook)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    wrapper = runner.optim_wrapper
    wrapper.loss_scaler = Scaler(wrapper.optimizer, overflows)
    wrapper.step = wrapper.loss_scaler.step
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        if ends:
            with pytest.raises(ValueError, match="overflowed in 3 steps in a row, at loss scale 4 at iteration 4"):
                runner.train()
        else:
            runner.train()
    assert caplog.text.count("A step is skipped") == (1 if ends else 2)


def test_annotations_are_written_as_tensors_and_plain_values():
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    sample = DetDataSample(metainfo=dict(img_path="a.jpg", img_shape=(4, 5), scale_factor=np.float64(2)))
    instances = InstanceData()
    instances.bboxes = HorizontalBoxes(torch.tensor([[0.0, 0, 2, 2]]))
    instances.masks = BitmapMasks(np.ones((1, 4, 5), np.uint8), 4, 5)
    sample.gt_instances = instances
    plain = _plain([sample])[0]
    assert plain["img_path"] == "a.jpg"
    assert plain["scale_factor"] == 2.0
    assert torch.equal(plain["gt_instances"]["bboxes"], torch.tensor([[0.0, 0, 2, 2]]))
    assert plain["gt_instances"]["masks"].shape == (1, 4, 5)
