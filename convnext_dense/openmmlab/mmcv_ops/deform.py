"""Deformable convolution, without (version 1) and with (version 2) modulation.

Letters: N images, C input and D output channels, H and W size of the input, P and Q of the output, R and S of the
kernel; E groups of offsets. ``geometry`` stands for kW, kH, dW, dH (stride), padW, padH, dilationW, dilationH, group,
deformable_group and im2col_step in version 1, for kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
dilation_w, group and deformable_group in version 2.

Source: https://github.com/open-mmlab/mmcv/tree/v2.1.0/mmcv/ops/csrc (pytorch/deform_conv.cpp,
pytorch/modulated_deform_conv.cpp, and their kernels in common/cuda). torchvision's deform_conv2d is the same function
with the same layout of offsets, but its gradient of the offsets differs: see :func:`_without_outside`.

Differs: an offset that is not a number gives NaN (mmcv: 0). Half and bfloat16 inputs are computed in float32. Scratch
tensors are not used, except ``columns`` in version 1's backward functions: the first stores the weight's gradient there
for the second, because torchvision computes all gradients at once. ``im2col_step`` is ignored; torchvision chooses its
own.

Version 2 of mmcv treats the offsets and the mask of an image as a flat row and reads as many numbers from its start as
the output needs. DyHead relies on this and passes offsets of a larger map. If there are too few numbers, mmcv reads
past the end; here it is an error.
"""

import torch
import torchvision  # noqa: F401 (registers torch.ops.torchvision)
from torch import Tensor

from convnext_dense.errors import UserError
from convnext_dense.openmmlab.mmcv_ops.precision import widen


def _version1(geometry: dict[str, int]) -> tuple[int, ...]:
    """Return the arguments of version 1 in torchvision's order; the last one says that there is no mask."""
    names = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
    return *(geometry[name] for name in names), False


def _version2(geometry: dict[str, int]) -> tuple[int, ...]:
    """Return the arguments of version 2 in torchvision's order; the last one says that there is a mask."""
    names = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "group", "deformable_group")
    return *(geometry[name] for name in names), True


def _unused_mask(input: Tensor) -> Tensor:
    """Return the placeholder that torchvision expects instead of a mask."""
    return input.new_zeros((len(input), 1))


def _zero_bias(weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight))


def _without_outside(
    gradient: Tensor, offset: Tensor, input: Tensor, weight: Tensor, numbers: tuple[int, ...]
) -> Tensor:
    """Set the gradient of ``offset`` to zero for points outside the map, and return it.

    In mmcv a point is on the map if it lies strictly between -1 and H and strictly between -1 and W; any other point
    has no slope. torchvision gives a point at exactly -1 the slope towards the map. A padded kernel with zero offsets,
    as at the start of training, has such points.

    Args:
        gradient: (N, E * R * S * 2, P, Q), overwritten.
        offset: (N, E * R * S * 2, P, Q).
        input: (N, C, H, W).
        weight: (D, C / group, R, S).
        numbers: The result of :func:`_version1` or :func:`_version2`.
    """
    kernel = weight.shape[2:]
    offsets = offset.unflatten(1, (-1, *kernel, 2)).unbind(dim=4)  # y and x, (N, E, R, S, P, Q)
    outside = torch.zeros((), dtype=torch.bool, device=offset.device)
    for axis, (stride, padding, dilation) in enumerate(zip(numbers[:2], numbers[2:4], numbers[4:6], strict=True)):
        windows = torch.arange(offset.shape[2 + axis], device=offset.device) * stride - padding
        places = windows + torch.arange(kernel[axis], device=offset.device)[:, None] * dilation
        points = offsets[axis] + (places[:, None, :, None] if axis == 0 else places[:, None, :])
        outside = outside | (points <= -1) | (points >= input.shape[2 + axis])
    gradient.unflatten(1, (-1, *kernel, 2)).masked_fill_(outside.unsqueeze(4), 0)
    return gradient


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **geometry: int
) -> None:
    """Convolve ``input`` at points shifted by ``offset``.

    Args:
        input: (N, C, H, W).
        weight: (D, C / group, R, S).
        offset: (N, E * R * S * 2, P, Q), pairs (y, x).
        output: (N, D, P, Q), overwritten.
        columns: Scratch, unused.
        ones: Scratch, unused.
        geometry: See the module's docstring.
    """
    input, weight, offset = widen(input, weight, offset)
    mask, bias = _unused_mask(input), _zero_bias(weight)
    output.copy_(torch.ops.torchvision.deform_conv2d(input, weight, offset, mask, bias, *_version1(geometry)))


def _version1_gradients(
    grad_output: Tensor, input: Tensor, weight: Tensor, offset: Tensor, geometry: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and offset."""
    grad_output, input, weight, offset = widen(grad_output, input, weight, offset)
    numbers = _version1(geometry)
    grad_input, grad_weight, grad_offset, _, _ = torch.ops.torchvision._deform_conv2d_backward(
        grad_output, input, weight, offset, _unused_mask(input), _zero_bias(weight), *numbers
    )
    return grad_input, grad_weight, _without_outside(grad_offset, offset, input, weight, numbers)


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Add the gradients of input and offset to ``grad_input`` and ``grad_offset``.

    Args:
        input: As in :func:`deform_conv_forward`.
        offset: Likewise.
        grad_output: (N, D, P, Q).
        grad_input: (N, C, H, W).
        grad_offset: (N, E * R * S * 2, P, Q).
        weight: As in :func:`deform_conv_forward`.
        columns: Scratch; contains the weight's gradient afterwards.
        geometry: See the module's docstring.
    """
    input_part, weight_part, offset_part = _version1_gradients(grad_output, input, weight, offset, geometry)
    grad_input.add_(input_part)
    grad_offset.add_(offset_part)
    columns.resize_(weight_part.shape).copy_(weight_part)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **geometry: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``grad_weight``.

    Args:
        input: As in :func:`deform_conv_forward`.
        offset: Likewise.
        grad_output: (N, D, P, Q).
        grad_weight: (D, C / group, R, S).
        columns: Scratch; contains the gradient if :func:`deform_conv_backward_input` stored it here.
        ones: Scratch, unused.
        scale: Factor.
        geometry: See the module's docstring.
    """
    if columns.shape == grad_weight.shape:
        weight_part = columns.clone()
        columns.resize_(0)  # used once: the next backward pass may have another gradient
    else:
        # The weight's gradient does not depend on its values.
        _, weight_part, _ = _version1_gradients(grad_output, input, grad_weight, offset, geometry)
    grad_weight.add_(weight_part, alpha=scale)


def _output_size(input: Tensor, geometry: dict[str, int]) -> list[int]:
    """Return P and Q of version 2."""
    sizes = []
    for length, axis in zip(input.shape[2:], "hw", strict=True):
        window = geometry[f"dilation_{axis}"] * (geometry[f"kernel_{axis}"] - 1) + 1
        sizes.append((length + 2 * geometry[f"pad_{axis}"] - window) // geometry[f"stride_{axis}"] + 1)
    return sizes


def _read_as_row(name: str, maps: Tensor, size: list[int]) -> Tensor:
    """View the first numbers of each image of ``maps`` (N, ..., any, any) as maps of ``size``."""
    if list(maps.shape[2:]) == size:
        return maps
    needed = maps.shape[1] * size[0] * size[1]
    row = maps.flatten(1)
    if row.shape[1] < needed:
        raise UserError(f"{name} has the shape {tuple(maps.shape)}; the output needs at least {needed} numbers.")
    return row[:, :needed].unflatten(1, (maps.shape[1], *size))


def _add_as_row(target: Tensor, part: Tensor) -> None:
    """Add ``part`` to the numbers that :func:`_read_as_row` reads."""
    if target.shape != part.shape:
        row = target.new_zeros((len(target), target[0].numel()))
        row[:, : part[0].numel()] = part.flatten(1)
        part = row.view(target.shape)
    target.add_(part)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Convolve ``input`` at points shifted by ``offset`` and weighted by ``mask``.

    Args:
        input: (N, C, H, W).
        weight: (D, C / group, R, S).
        bias: (D,) where ``with_bias``, else empty.
        ones: Scratch, unused.
        offset: (N, E * R * S * 2, P, Q), pairs (y, x); see the module's docstring for larger maps.
        mask: (N, E * R * S, P, Q), likewise.
        output: (N, D, P, Q), overwritten.
        columns: Scratch, unused.
        with_bias: Whether to add the bias.
        geometry: See the module's docstring.

    Raises:
        UserError: Offset or mask has too few numbers.
    """
    input, weight, bias, offset, mask = widen(input, weight, bias, offset, mask)
    size = _output_size(input, geometry)
    offset, mask = _read_as_row("offset", offset, size), _read_as_row("mask", mask, size)
    bias = bias if with_bias else _zero_bias(weight)
    output.copy_(torch.ops.torchvision.deform_conv2d(input, weight, offset, mask, bias, *_version2(geometry)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Add the gradient of :func:`modulated_deform_conv_forward` to the five ``grad_`` tensors of its inputs.

    Each has the shape of its input; ``grad_bias`` does not change without ``with_bias``. The other arguments are those
    of the forward function; ``grad_output`` is (N, D, P, Q).
    """
    grad_output, input, weight, offset, mask = widen(grad_output, input, weight, offset, mask)
    size = list(grad_output.shape[2:])
    offset, mask = _read_as_row("offset", offset, size), _read_as_row("mask", mask, size)
    numbers = _version2(geometry)
    gradients = torch.ops.torchvision._deform_conv2d_backward(
        grad_output, input, weight, offset, mask, _zero_bias(weight), *numbers
    )
    _without_outside(gradients[2], offset, input, weight, numbers)
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for target, gradient in zip(targets if with_bias else targets[:-1], gradients, strict=False):
        _add_as_row(target, gradient)


OPERATORS = {
    "deform_conv_backward_input": deform_conv_backward_input,
    "deform_conv_backward_parameters": deform_conv_backward_parameters,
    "deform_conv_forward": deform_conv_forward,
    "modulated_deform_conv_backward": modulated_deform_conv_backward,
    "modulated_deform_conv_forward": modulated_deform_conv_forward,
}
