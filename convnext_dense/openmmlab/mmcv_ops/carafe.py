"""CARAFE: upsampling by kernels that the network predicts for every output position.

Letters: N images, G groups, C channels per group, K positions of a k x k kernel, H x W positions, S scale factor.

Source: https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/carafe_naive_cuda_kernel.cuh
(arXiv 1905.02188, equation 4)
Differs: runs on the CPU too. The plain and the "naive" operator are the same; the scratch tensors that mmcv allocates
for the former stay unused, except ``rfeatures``, which keeps the features for the backward call.

Patches: ``mmcv.ops.carafe.CARAFENaiveFunction.backward`` starts with ``assert grad_output.is_cuda``, so on the CPU it
fails before it calls this module. The first call of the forward operator replaces it by the same function without that
line. A compiled mmcv does not use this module and keeps its own function.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import fold, unfold


def _windows(features: Tensor, kernel_size: int, group_size: int) -> Tensor:
    """Return the k x k neighbourhood of every position, (N, G, C, K, H, W)."""
    images, channels, height, width = features.shape
    columns = unfold(features, kernel_size, padding=kernel_size // 2)
    return columns.view(images, group_size, channels // group_size, kernel_size**2, height, width)


def _blocks(outputs: Tensor, group_size: int, scale_factor: int) -> Tensor:
    """Split maps of the output's size by group and position: (N, G, channels per group, H, S, W, S)."""
    images, channels, height, width = outputs.shape
    return outputs.reshape(
        images,
        group_size,
        channels // group_size,
        height // scale_factor,
        scale_factor,
        width // scale_factor,
        scale_factor,
    )


def _backward_on_any_device(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of the five arguments of ``mmcv.ops.carafe_naive``."""
    features, masks = ctx.saved_tensors
    grad_features, grad_masks = torch.empty_like(features), torch.empty_like(masks)
    sizes = {name: getattr(ctx, name) for name in ("kernel_size", "group_size", "scale_factor")}
    carafe_naive_backward(grad_output, features, masks, grad_features, grad_masks, **sizes)
    return grad_features, grad_masks, None, None, None


@cache
def _lift_device_check() -> None:
    """Let mmcv's naive function compute gradients on any device; see the module's docstring."""
    from mmcv.ops.carafe import CARAFENaiveFunction

    CARAFENaiveFunction.backward = staticmethod(_backward_on_any_device)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, *, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Write the upsampled features to ``output``, (N, G * C, H * S, W * S)."""
    _lift_device_check()
    windows = _windows(features, kernel_size, group_size)
    kernels = _blocks(masks, group_size, scale_factor)
    output.copy_(torch.einsum("ngckhw,ngkhiwj->ngchiwj", windows, kernels).reshape(output.shape))


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    *,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of the features to ``grad_input`` and those of the kernels to ``grad_masks``."""
    gradients = _blocks(grad_output, group_size, scale_factor)
    kernels = _blocks(masks, group_size, scale_factor)
    windows = _windows(features, kernel_size, group_size)
    grad_masks.copy_(torch.einsum("ngckhw,ngchiwj->ngkhiwj", windows, gradients).reshape(masks.shape))
    columns = torch.einsum("ngkhiwj,ngchiwj->ngckhw", kernels, gradients).flatten(1, 3).flatten(2)
    grad_input.copy_(fold(columns, features.shape[2:], kernel_size, padding=kernel_size // 2))


def carafe_forward(
    features: Tensor, masks: Tensor, rfeatures: Tensor, routput: Tensor, rmasks: Tensor, output: Tensor, **sizes: Any
) -> None:
    """Do the same as ``carafe_naive_forward``, and keep the features for the backward call."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **sizes)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **sizes: Any,
) -> None:
    """Do the same as ``carafe_naive_backward``."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, **sizes)


OPERATORS = {
    "carafe_backward": carafe_backward,
    "carafe_forward": carafe_forward,
    "carafe_naive_backward": carafe_naive_backward,
    "carafe_naive_forward": carafe_naive_forward,
}
