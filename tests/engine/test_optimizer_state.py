"""A run whose checkpoint stores GRN as (1, 1, 1, C) resumes as if it had not been interrupted."""

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from convnext_dense.engine.optimizer_state import fit_optimizer_state
from convnext_dense.models import ConvNeXt

SMALL = dict(depths=(1, 1, 1, 1), channels=(8, 16, 32, 64))


class Detector(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = ConvNeXt(SMALL, use_grn=True, layer_scale_init_value=0.0)

    def forward(self, inputs, mode="loss"):
        return {"loss": sum(feature[:, :3].square().mean() for feature in self.backbone(torch.stack(inputs)))}


def train(work_dir, max_epochs, **settings):
    torch.manual_seed(1)
    images = [dict(inputs=torch.rand(3, 32, 32)) for _ in range(2)]
    runner = Runner(
        model=Detector(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(images, collate_fn=lambda items: dict(inputs=[x["inputs"] for x in items])),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.05),
            constructor="convnext_dense.LayerDecayOptimWrapperConstructor",
            paramwise_cfg=dict(decay_rate=0.9),
        ),
        custom_hooks=[dict(type="convnext_dense.CheckpointGuardHook")],
        default_scope="mmengine",
        experiment_name=f"{work_dir.name}{max_epochs}{len(settings)}",
        **settings,
    )
    runner.train()
    return runner.model.state_dict()


def as_before(path):
    """Gives a checkpoint the shapes that GRN and its moments had."""
    content = torch.load(path, weights_only=False)
    names = [name for name, _ in Detector().named_parameters()]
    order = [name for group in content["optimizer"]["param_groups"] for name in group["param_names"]]
    assert set(order) == set(names)
    for number, name in enumerate(order):
        if ".grn." in name:
            content["state_dict"][name] = content["state_dict"][name].reshape(1, 1, 1, -1)
            state = content["optimizer"]["state"][number]
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = state[moment].reshape(1, 1, 1, -1)
    torch.save(content, path)


def test_run_with_an_earlier_shape_of_grn_is_resumed_exactly(tmp_path):
    whole = train(tmp_path / "whole", 2)
    train(tmp_path / "halves", 1)
    as_before(tmp_path / "halves" / "epoch_1.pth")
    resumed = train(tmp_path / "halves", 2, resume=True)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.parametrize("several", [False, True])
def test_only_states_that_lost_dimensions_of_one_are_reshaped(several):
    layer = nn.Linear(1, 3)  # weight (3, 1), bias (3,)
    wrapper = OptimWrapper(torch.optim.AdamW(layer.parameters()))
    states = {
        0: dict(step=torch.tensor(1.0), exp_avg=torch.zeros(3, 1)),
        1: dict(step=torch.tensor(1.0), exp_avg=torch.arange(3.0).reshape(1, 1, 3), exp_avg_sq=torch.zeros(1, 4)),
    }
    saved = dict(state=states, param_groups=[dict(params=[0, 1])])
    if several:
        fit_optimizer_state(OptimWrapperDict(one=wrapper, other=wrapper), dict(one=saved))
    else:
        fit_optimizer_state(wrapper, saved)
    shapes = {number: [tuple(value.shape) for value in state.values()] for number, state in states.items()}
    assert shapes == {0: [(), (3, 1)], 1: [(), (3,), (1, 4)]}
    assert states[1]["exp_avg"].tolist() == [0.0, 1.0, 2.0]
