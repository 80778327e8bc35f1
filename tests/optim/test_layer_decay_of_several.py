"""Several optimizers as in mmengine: a user's constructor that returns an ``OptimWrapperDict``.

Source of the pattern: mmengine's documentation, docs/en/tutorials/optim_wrapper.md, "Use multiple optimizers"."""

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from torch import nn

from convnext_dense.models import ConvNeXt

SMALL = dict(depths=(1, 1, 3, 1), channels=(4, 8, 16, 32))
OURS = dict(
    optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05),
    constructor="convnext_dense.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.5),
)
PLAIN = dict(optimizer=dict(type="SGD", lr=0.1))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OnePerPart:
    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.parts = {name: cfg for name, cfg in optim_wrapper_cfg.items() if isinstance(cfg, dict)}

    def __call__(self, model):
        return OptimWrapperDict(
            **{name: build_optim_wrapper(getattr(model, name), cfg) for name, cfg in self.parts.items()}
        )


class Both(BaseModel):
    def __init__(self):
        super().__init__()
        self.generator = nn.ModuleDict({"backbone": ConvNeXt(SMALL, out_indices=(3,)), "head": nn.Linear(32, 2)})
        self.discriminator = nn.Linear(2, 2)

    def forward(self, inputs=None, mode="loss"):
        pooled = self.generator["backbone"](torch.rand(1, 3, 32, 32))[-1].mean((2, 3))
        return self.discriminator(self.generator["head"](pooled)).square().mean()


def build(model, tmp_path, **parts):
    """Build through the runner, which looks for ``constructor`` and otherwise expects one optimizer."""
    runner = Runner(model=model, work_dir=str(tmp_path), default_scope="mmengine", experiment_name=tmp_path.name)
    return runner.build_optim_wrapper(dict(constructor="OnePerPart", **parts))


def rates(wrapper):
    return {name: group["lr"] for group in wrapper.optimizer.param_groups for name in group["param_names"]}


@pytest.mark.parametrize("part", ["generator", "generator.backbone"])
def test_layer_decay_is_one_optimizer_of_several(part, tmp_path):
    """Three blocks in stage 2 make ids 0 to 4 and the head 5: 0.5 ** 5 at the stem, 1 at output norms and the head."""
    model = Both()
    if part == "generator.backbone":
        model.generator = model.generator["backbone"]
    wrappers = build(model, tmp_path, generator=OURS, discriminator=PLAIN)
    assert isinstance(wrappers, OptimWrapperDict)
    found = rates(wrappers["generator"])
    prefix = "backbone." if part == "generator" else ""
    assert found[f"{prefix}downsample_layers.0.0.weight"] == 0.5**5
    assert found[f"{prefix}stages.3.0.gamma"] == 0.5
    assert found[f"{prefix}norm3.weight"] == 1.0
    assert set(found) == {name for name, _ in model.generator.named_parameters()}
    [group] = wrappers["discriminator"].optimizer.param_groups
    assert len(group["params"]) == 2


def test_each_optimizer_steps_and_comes_back_from_its_state(tmp_path):
    model = Both()
    wrappers = build(model, tmp_path, generator=OURS, discriminator=PLAIN)
    before = {name: param.clone() for name, param in model.named_parameters()}
    model().backward()
    for wrapper in wrappers.values():
        wrapper.step()
    assert all(not torch.equal(param, before[name]) for name, param in model.named_parameters())
    state = wrappers.state_dict()
    other = build(Both(), tmp_path, generator=OURS, discriminator=PLAIN)
    other.load_state_dict(state)
    assert rates(other["generator"]) == rates(wrappers["generator"])
    moments = [one["generator"].optimizer.state_dict()["state"] for one in (wrappers, other)]
    assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])


def test_part_without_a_backbone_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs a backbone with get_layer_depth.*Linear has none"):
        build(Both(), tmp_path, discriminator=OURS)


def test_optimizer_without_a_learning_rate_is_named(tmp_path):
    without = dict(OURS, optimizer=dict(type="AdamW"))
    with pytest.raises(ValueError, match=r"optim_wrapper\.optimizer needs lr, which layer decay multiplies"):
        build(Both(), tmp_path, generator=without)
