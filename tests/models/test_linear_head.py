"""The linear head and the frozen backbone below it, as in facebookresearch/dinov3@6876159a linear_head.py."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmseg imports)
from convnext_dense.checkpoints import load_weights
from convnext_dense.models import ConvNeXt
from convnext_dense.models.linear_head import LinearHead

SMALL = dict(depths=(1, 1, 1, 1), channels=(4, 8, 12, 16))
OPTIONS = dict(num_classes=5, norm_cfg=dict(type="BN"), in_index=0)


def test_head_is_a_batch_norm_and_a_1x1_convolution():
    torch.manual_seed(0)
    head = LinearHead(16, dropout_ratio=0.0, **OPTIONS)
    head.init_weights()
    assert isinstance(head.norm, nn.BatchNorm2d)
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not head.conv_seg.bias.any()
    x = torch.rand(2, 16, 3, 4)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = F.conv2d((x - mean) / (var + 1e-5).sqrt(), head.conv_seg.weight)
    torch.testing.assert_close(head.train()([x]), expected)


def test_dropout_comes_before_the_norm():
    """A channel that is dropped in all images is constant, and so is what the norm gives for it: its bias, zero."""
    head = LinearHead(16, dropout_ratio=0.999999, **OPTIONS).train()
    head.init_weights()
    assert torch.equal(head([torch.rand(2, 16, 3, 4)]), torch.zeros(2, 5, 3, 4))


@pytest.fixture
def weights(tmp_path):
    model = ConvNeXt(SMALL, output_norms="last")
    path = tmp_path / "weights.pth"
    torch.save({name: torch.rand_like(tensor) for name, tensor in model.state_dict().items()}, path)
    return path


def test_nothing_of_a_frozen_backbone_learns(weights):
    model = ConvNeXt(SMALL, output_norms="last", frozen_stages=4, frozen_output_norms=True, out_indices=(3,)).train()
    assert not any(param.requires_grad for param in model.parameters())
    text = r"frozen_stages=4 and frozen_output_norms=True would keep \d+ tensors at their random .* or freeze less"
    with pytest.raises(ValueError, match=text):
        model(torch.rand(1, 3, 64, 64))
    load_weights(model, weights)
    assert not model.train()(torch.rand(1, 3, 64, 64))[0].requires_grad


def test_frozen_norms_that_were_not_in_the_file_are_refused(tmp_path):
    stages = {name: tensor for name, tensor in ConvNeXt(SMALL).state_dict().items() if not name.startswith("norm")}
    torch.save(stages, tmp_path / "classifier.pth")
    model = ConvNeXt(SMALL, output_norms="last", frozen_stages=4, frozen_output_norms=True).train()
    load_weights(model, tmp_path / "classifier.pth")
    with pytest.raises(ValueError, match=r"would keep 2 tensors at .* such as norm3\.bias"):
        model(torch.rand(1, 3, 64, 64))
