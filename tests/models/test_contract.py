"""The contract of every backbone: maps, gradients, recomputation, freezing, layer ids."""

import pytest
import torch

from convnext_dense.checkpoints import load_weights
from convnext_dense.models import ConvNeXt, IsotropicConvNeXt, RoadmapNet

SMALL = dict(depths=(2, 1, 3, 1), channels=(8, 16, 32, 64))
ROAD = ("original", "stage_ratio", "depthwise", "inverted_bottleneck", "layer_norm", "separate_downsampling")
BACKBONES = {
    "v1": lambda **kwargs: ConvNeXt(SMALL, layer_scale_init_value=1.0, **kwargs),
    "v2": lambda **kwargs: ConvNeXt(SMALL, use_grn=True, layer_scale_init_value=0.0, **kwargs),
    "isotropic": lambda **kwargs: IsotropicConvNeXt(dict(depth=4, channels=16), layer_scale_init_value=1.0, **kwargs),
    **{
        step: lambda step=step, **kwargs: RoadmapNet(step, width_factor=1 / 8, layer_scale_init_value=1.0, **kwargs)
        for step in ROAD
    },
}
every_backbone = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)
every_staged = pytest.mark.parametrize("build", [BACKBONES[name] for name in BACKBONES if name != "isotropic"])


def project(features):
    """Return a loss that no output norm makes constant."""
    return sum((each * torch.linspace(-1, 1, each.numel()).view_as(each)).sum() for each in features)


@every_backbone
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (2,)], ids=str)
def test_maps_have_the_channels_and_strides_that_the_model_names(build, out_indices):
    model = build(out_indices=out_indices).eval()
    assert model.strides == (4, 8, 16, 32)
    features = model(torch.rand(2, 3, 64, 96))
    assert [tuple(feature.shape) for feature in features] == [
        (2, model.channels[level], 64 // model.strides[level], 96 // model.strides[level]) for level in out_indices
    ]


@every_backbone
@pytest.mark.parametrize("with_cp", [False, True, "mlp"])
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0, 2)], ids=str)
def test_gradients_reach_every_parameter_of_what_is_read(build, out_indices, with_cp):
    """Initially GRN (gamma 0) passes no gradient through gamma to the norm, but gamma and beta themselves learn."""
    torch.manual_seed(0)
    model = build(out_indices=out_indices, with_cp=with_cp).train()
    project(model(torch.rand(2, 3, 64, 64))).backward()
    without = [name for name, param in model.named_parameters() if param.grad is None or not param.grad.abs().sum() > 0]
    assert without == []


@every_backbone
@pytest.mark.parametrize("with_cp", [True, "mlp"])
def test_recomputation_changes_memory_and_not_results(build, with_cp):
    torch.manual_seed(0)
    plain, image = build().train(), torch.rand(2, 3, 64, 64)
    recomputed = build(with_cp=with_cp).train()
    recomputed.load_state_dict(plain.state_dict())
    for model in (plain, recomputed):
        project(model(image)).backward()
    for expected, found in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@every_staged
def test_frozen_stages_are_refused_at_random_and_else_do_not_learn(build, tmp_path):
    model = build(frozen_stages=1, drop_path_rate=0.5).train()
    frozen = {name for name, param in model.named_parameters() if not param.requires_grad}
    assert frozen
    with pytest.raises(ValueError, match=r"frozen_stages=1 would keep \d+ tensors at "):
        model(torch.rand(2, 3, 64, 64))
    torch.save(build().state_dict(), tmp_path / "weights.pth")
    load_weights(model, tmp_path / "weights.pth")
    project(model(torch.rand(2, 3, 64, 64))).backward()
    assert {name for name, param in model.named_parameters() if param.grad is None} == frozen


@every_backbone
def test_layer_ids_rise_from_the_stem_to_the_head(build):
    model = build()
    ids = [model.get_layer_depth(name) for name, _ in model.named_parameters()]
    assert len({num_layers for _, num_layers in ids}) == 1
    assert min(layer_id for layer_id, _ in ids) == 0
    assert max(layer_id for layer_id, _ in ids) <= ids[0][1]
    name = next(name for name, _ in model.named_parameters())
    assert model.get_layer_depth(f"backbone.{name}", "backbone.") == model.get_layer_depth(name)


@every_backbone
def test_wrong_number_of_input_channels_is_named(build):
    with pytest.raises(ValueError, match=r"expects images of shape \(N, 3, H, W\), got \(1, 4, 32, 32\)"):
        build()(torch.rand(1, 4, 32, 32))


@every_backbone
def test_more_input_channels_are_an_argument(build):
    assert len(build(in_channels=5).eval()(torch.rand(1, 5, 64, 64))) == 4
