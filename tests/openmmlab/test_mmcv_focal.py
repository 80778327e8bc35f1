"""Compares focal losses with torchvision's and with the formula under autograd."""

import pytest
import torch
import torchvision
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss
from torch import Tensor

NUM_CLASSES = 4
TARGET = torch.tensor([0, 3, NUM_CLASSES, 1, 1])  # the third is background
CLASS_WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


def logits(scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(len(TARGET), NUM_CLASSES, generator=generator, dtype=torch.float64)).requires_grad_()


def by_torchvision(x: Tensor, gamma: float, alpha: float) -> Tensor:
    one_hot = torch.nn.functional.one_hot(TARGET, NUM_CLASSES + 1)[:, :-1].to(x)
    return torchvision.ops.sigmoid_focal_loss(x, one_hot, alpha, gamma)


def by_formula(x: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    log_p = x.log_softmax(dim=1).gather(1, target[:, None]).squeeze(1)
    return -alpha * (1 - log_p.exp()) ** gamma * log_p


# At a scale of 100 the probabilities are rounded to 0 and 1 in float32 and the losses exceed -log(FLT_MIN) = 87.
@pytest.mark.parametrize("scale", [2.0, 100.0])
@pytest.mark.parametrize("gamma", [2.0, 1.5, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_focal_loss_and_its_gradient_equal_torchvision(dtype, gamma, scale, device):
    x = logits(scale)
    expected = by_torchvision(x, gamma, 0.25)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), x)
    x = logits(scale).detach().to(device, dtype).requires_grad_()
    loss = sigmoid_focal_loss(x, TARGET.to(device), gamma, 0.25, None, "none")
    loss.sum().backward()
    torch.testing.assert_close(loss.cpu(), expected.to(dtype))
    torch.testing.assert_close(x.grad.cpu(), expected_gradient.to(dtype))


@pytest.mark.parametrize("background", [NUM_CLASSES, -1, -100])
def test_sigmoid_focal_loss_weighs_samples_by_their_class_and_background_by_one(background):
    x, target = logits(), TARGET.where(TARGET < NUM_CLASSES, background)
    weights = torch.tensor([0.5, 3.0, 1.0, 2.0, 2.0], dtype=torch.float64)[:, None]
    expected = by_torchvision(x, 2.0, 0.25) * weights
    (expected_gradient,) = torch.autograd.grad(expected.sum() / len(x), x)
    loss = sigmoid_focal_loss(x, target, 2.0, 0.25, CLASS_WEIGHT, "mean")
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(loss, expected.sum() / len(x))
    torch.testing.assert_close(gradient, expected_gradient)


def test_sigmoid_focal_loss_refuses_a_target_beyond_background():
    with pytest.raises(RuntimeError, match="exceeds the number of classes"):
        sigmoid_focal_loss(logits(), TARGET + 1)


@pytest.mark.parametrize("gamma", [2.0, 1.5, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softmax_focal_loss_and_its_gradient_equal_the_formula(dtype, gamma, device):
    target = TARGET.clamp(max=NUM_CLASSES - 1)
    x = logits()
    expected = (by_formula(x, target, gamma, 0.25) * CLASS_WEIGHT[target]).mean()
    (expected_gradient,) = torch.autograd.grad(expected, x)
    x = logits().detach().to(device, dtype).requires_grad_()
    loss = softmax_focal_loss(x, target.to(device), gamma, 0.25, CLASS_WEIGHT.to(device, dtype), "mean")
    loss.backward()
    torch.testing.assert_close(loss.cpu(), expected.to(dtype))
    torch.testing.assert_close(x.grad.cpu(), expected_gradient.to(dtype))


def test_softmax_focal_loss_ignores_negative_targets():
    x, target = logits(), TARGET.where(TARGET < NUM_CLASSES, -1)
    valid = target >= 0
    expected = by_formula(x[valid], target[valid], 2.0, 0.25).sum()
    (expected_gradient,) = torch.autograd.grad(expected, x)
    loss = softmax_focal_loss(x, target, 2.0, 0.25, None, "sum")
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("gamma", [2.0, 0.5, 0.0])
def test_softmax_focal_gradient_of_certainty_is_finite(gamma):
    x = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)  # probabilities of exactly 1 and 0
    softmax_focal_loss(x, torch.tensor([0, 0]), gamma, 0.25, None, "sum").backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("focal_loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_focal_losses_take_short_floats(focal_loss, dtype, device):
    x, target = logits().detach().to(device, dtype).requires_grad_(), TARGET.clamp(max=3).to(device)
    exact = x.detach().double().requires_grad_()
    loss, expected = focal_loss(x, target), focal_loss(exact, target)
    loss.backward()
    expected.backward()
    assert loss.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=2e-2, atol=2e-2)


def test_focal_losses_of_no_samples_are_zero(device):
    for focal_loss in (sigmoid_focal_loss, softmax_focal_loss):
        x = torch.empty(0, NUM_CLASSES, device=device, requires_grad=True)
        loss = focal_loss(x, torch.empty(0, dtype=torch.long, device=device), 2.0, 0.25, None, "sum")
        loss.backward()
        assert loss == 0
        assert x.grad.shape == (0, NUM_CLASSES)
