"""Distillation: the teacher is timm's own, sees what it expects, and is no part of the model."""

import copy

import pytest
import timm
import torch
from torch.nn import functional

from convnext_dense.errors import UserError
from convnext_dense.models import Distillation

STUDENT = dict(type="convnext_dense.ConvNeXt", arch=dict(depths=(1, 1, 1, 1), channels=(4, 8, 12, 16)))
TEACHERS = ["test_vit.r160_in1k", "test_convnext.r160_in1k", "test_resnet.r160_in1k"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of each teacher as timm writes them, with a head; normalised to other statistics than ImageNet's."""
    folder = tmp_path_factory.mktemp("teachers")
    paths = {}
    for name in TEACHERS:
        torch.manual_seed(1)
        network = timm.create_model(name)
        paths[name] = folder / f"{name}.pth"
        torch.save(network.state_dict(), paths[name])
    return paths


def build(name, files, **kwargs):
    torch.manual_seed(0)
    model = Distillation(STUDENT, name, teacher_weights=str(files[name]), **kwargs)
    model.init_weights()
    return model


@pytest.mark.parametrize("name", TEACHERS)
def test_targets_are_the_last_map_that_timm_gives(name, files):
    model = build(name, files)
    network = timm.create_model(name, checkpoint_path=str(files[name])).eval()
    images = torch.rand(2, 3, 160, 160)
    mean, std = torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN), torch.tensor(timm.data.IMAGENET_DEFAULT_STD)
    own_mean, own_std = (torch.tensor(network.default_cfg[key]) for key in ("mean", "std"))

    def normalise(mean, std):
        return (images - mean[:, None, None]) / std[:, None, None]

    with torch.no_grad():
        features = network.forward_features(normalise(own_mean, own_std))
    if features.dim() == 3:  # a ViT: class tokens first
        tokens = features[:, network.num_prefix_tokens :]
        features = tokens.transpose(1, 2).unflatten(2, (10, 10))
    wanted = functional.adaptive_avg_pool2d(features, (5, 5))
    torch.testing.assert_close(model.teach(normalise(mean, std), (5, 5)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TEACHERS)
def test_losses_are_one_minus_cosines_and_only_the_student_learns(name, files):
    model = build(name, files)
    images = torch.randn(2, 3, 160, 128)
    losses = model(images, mode="loss")
    ours, theirs = model.proj(model.backbone(images)[-1]), model.teach(images, (5, 4))
    norms = ours.norm(dim=1) * theirs.norm(dim=1)
    torch.testing.assert_close(losses["loss_map"], 1 - ((ours * theirs).sum(1) / norms).mean())
    ours, theirs = ours.mean((2, 3)), theirs.mean((2, 3))
    torch.testing.assert_close(
        losses["loss_pooled"], 1 - ((ours * theirs).sum(1) / (ours.norm(dim=1) * theirs.norm(dim=1))).mean()
    )
    sum(losses.values()).backward()
    for key, param in model.named_parameters():
        assert key.startswith(("backbone.", "proj."))
        assert param.grad is not None, key
        assert param.grad.abs().sum() > 0, key
    assert not any(param.requires_grad for param in model._teacher.network.parameters())


def test_the_teacher_is_neither_saved_nor_copied_nor_trained(files):
    model = build(TEACHERS[2], files)
    assert {key.split(".")[0] for key in model.state_dict()} == {"backbone", "proj"}
    assert copy.deepcopy(model)._teacher is model._teacher
    model.train()
    before = {key: tensor.clone() for key, tensor in model._teacher.network.state_dict().items()}
    model(torch.randn(2, 3, 64, 64), mode="loss")  # BatchNorm would move its averages
    for key, tensor in model._teacher.network.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_wrong_teachers_are_named(files, tmp_path):
    with pytest.raises(UserError, match="has no network 'convnextt_tiny'"):
        Distillation(STUDENT, "convnextt_tiny")
    torch.save({"head.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    for path, text in ((tmp_path / "other.pth", "lacks"), (files[TEACHERS[1]], "lacks")):
        model = Distillation(STUDENT, TEACHERS[0], teacher_weights=str(path))
        with pytest.raises(UserError, match=text):
            model.init_weights()
    with pytest.raises(UserError, match="needs a ConvNeXt"):
        Distillation(dict(type="convnext_dense.IsotropicConvNeXt", arch="small"), TEACHERS[0])
    with pytest.raises(UserError, match="must be one of tensor, loss"):
        build(TEACHERS[0], files)(torch.zeros(1, 3, 64, 64), mode="predict")
