"""Focal loss over sigmoids and over softmax.

Letters: N samples, C classes. The loss of a class with probability p is -alpha * (1 - p) ** gamma * log(p), times the
weight of the sample's class if weights are given (an empty ``weight`` means none).

Source: https://github.com/open-mmlab/mmcv/tree/v2.1.0/mmcv/ops/csrc/common/cuda (sigmoid_focal_loss_cuda_kernel.cuh,
softmax_focal_loss_cuda_kernel.cuh)

Differs: runs on the CPU too. Half and bfloat16 inputs are computed in float32. The sigmoid loss takes log(p) from the
logit, which is exact at any size; the kernel takes it from the rounded p, which in float32 turns a logit of 17 or
more, on the wrong side, into one of 87. A background sample has weight 1 (the kernel reads past the end of ``weight``).
A target above C stops the program without synchronising with the device.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from convnext_dense.openmmlab.mmcv_ops.precision import widen


def _signed_logits(input: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return sign, logit of the correct answer and alpha, each (N, C); only the sample's own class is a yes."""
    is_own_class = target[:, None] == torch.arange(input.shape[1], device=input.device)
    sign = torch.where(is_own_class, 1.0, -1.0).to(input.dtype)
    return sign, input * sign, torch.where(is_own_class, alpha, 1 - alpha).to(input.dtype)


def _sample_weights(weight: Tensor, target: Tensor) -> Tensor | float:
    """Return the weight of each sample (N, 1), which is 1 for background: label C, or a negative label."""
    if weight.numel() == 0:
        return 1.0
    background = len(weight)
    label = torch.where(target < 0, background, target)
    return pad(weight, (0, 1), value=1.0)[label][:, None]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every class into ``output``.

    Args:
        input: (N, C), logits.
        target: (N,), long; C is background.
        weight: (C,) or empty.
        output: (N, C), overwritten.
        gamma: Exponent.
        alpha: Factor for the sample's class; the factor for the others is 1 - alpha.
    """
    torch._assert_async((target <= input.shape[1]).all(), "a target of the focal loss exceeds the number of classes")
    logits, weight = widen(input, weight)
    _, logits, alphas = _signed_logits(logits, target, alpha)
    loss = -alphas * torch.sigmoid(-logits) ** gamma * logsigmoid(logits)
    output.copy_(loss * _sample_weights(weight, target))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the gradient of the summed loss with respect to ``input`` into ``grad_input`` (N, C).

    The other arguments are those of :func:`sigmoid_focal_loss_forward`.
    """
    logits, weight = widen(input, weight)
    sign, logits, alphas = _signed_logits(logits, target, alpha)
    p, rest = torch.sigmoid(logits), torch.sigmoid(-logits)
    gradient = -sign * alphas * rest**gamma * (rest - gamma * p * logsigmoid(logits))
    grad_input.copy_(gradient * _sample_weights(weight, target))


def _own_probability(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probability p of each sample's class and 1 - p, both (N, 1) and positive, and the labels (N, 1)."""
    label = target.clamp(min=0)[:, None]
    # mmcv's kernel limits p to float32's smallest normal number too.
    smallest = torch.finfo(torch.float32).tiny
    p = softmax.gather(1, label)
    return p.clamp(min=smallest), (1 - p).clamp(min=smallest), label


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every sample into ``output``.

    Args:
        input: (N, C), the softmax of the logits, which mmcv's Python code computes.
        target: (N,), long, below C; a negative target is ignored.
        weight: (C,) or empty.
        output: (N,), overwritten.
        gamma: Exponent.
        alpha: Factor.
    """
    softmax, weight = widen(input, weight)
    p, rest, _ = _own_probability(softmax, target)
    loss = -alpha * rest**gamma * p.log() * _sample_weights(weight, target)
    output.copy_((loss * (target >= 0)[:, None]).squeeze(1))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the gradient of the summed loss with respect to the logits into ``grad_input`` (N, C).

    ``buff`` is scratch, unused. The other arguments are those of :func:`softmax_focal_loss_forward`; ``input`` is the
    softmax.
    """
    softmax, weight = widen(input, weight)
    p, rest, label = _own_probability(softmax, target)
    slope = alpha * (gamma * rest ** (gamma - 1) * p * p.log() - rest**gamma)
    slope = slope * _sample_weights(weight, target) * (target >= 0)[:, None]
    # `slope` is the derivative with respect to log(p); that of log(p) to the logits is (one at the label) - softmax.
    grad_input.copy_((-softmax * slope).scatter_add(1, label, slope))


OPERATORS = {
    "sigmoid_focal_loss_backward": sigmoid_focal_loss_backward,
    "sigmoid_focal_loss_forward": sigmoid_focal_loss_forward,
    "softmax_focal_loss_backward": softmax_focal_loss_backward,
    "softmax_focal_loss_forward": softmax_focal_loss_forward,
}
