"""Deformable convolution, without (version 1) and with (version 2) modulation.

Letters: N images, C input and D output channels, H and W size of the input, P and Q of the output, R and S of the
kernel; E groups of offsets. ``geometry`` stands for kW, kH, dW, dH (stride), padW, padH, dilationW, dilationH, group,
deformable_group and im2col_step in version 1, for kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
dilation_w, group and deformable_group in version 2.

Source: https://github.com/open-mmlab/mmcv/tree/v2.1.0/mmcv/ops/csrc (pytorch/deform_conv.cpp,
pytorch/modulated_deform_conv.cpp, and their kernels in common/cuda). torchvision's deform_conv2d is the same function,
with the same layout of offsets. Its gradient of the offsets is not: see :func:`_without_outside`.

Differs: an offset that is not a number gives NaN (mmcv: 0). Half and bfloat16 are calculated in float32. The scratch
tensors stay untouched, but for ``columns`` in version 1's backward functions: the first leaves the weight's gradient
there for the second, because torchvision calculates all gradients at once. ``im2col_step`` is ignored; torchvision
chooses its own.

Version 2 of mmcv takes the offsets and the mask of an image for a row of numbers and reads as many from its start as
the output asks for. DyHead counts on it: it hands over offsets of a larger map. Too few numbers, which mmcv reads
beyond the end of, are an error here.
"""

import torch
import torchvision  # noqa: F401 (registers torch.ops.torchvision)
from torch import Tensor

from convnext_dense.errors import UserError
from convnext_dense.openmmlab.mmcv_ops.precision import widen


def _version1(geometry: dict[str, int]) -> tuple[int, ...]:
    """Return the keywords of version 1 in torchvision's order; the last one says that there is no mask."""
    names = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
    return *(geometry[name] for name in names), False


def _version2(geometry: dict[str, int]) -> tuple[int, ...]:
    """Return the keywords of version 2 in torchvision's order; the last one says that there is a mask."""
    names = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "group", "deformable_group")
    return *(geometry[name] for name in names), True


def _unused_mask(input: Tensor) -> Tensor:
    """Return what torchvision takes for "no mask"."""
    return input.new_zeros((len(input), 1))


def _zero_bias(weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight))


def _without_outside(
    gradient: Tensor, offset: Tensor, input: Tensor, weight: Tensor, numbers: tuple[int, ...]
) -> Tensor:
    """Return the gradient of ``offset`` with zeros for the points outside the map.

    To mmcv, a point is on the map if it lies between -1 and H, and between -1 and W, both excluded; any other has no
    slope. torchvision gives a point at exactly -1 the slope towards the map. A padded kernel with offsets of 0, the
    start of every training, has such points.

    Args:
        gradient: (N, E * R * S * 2, P, Q), overwritten.
        offset: Likewise.
        input: (N, C, H, W).
        weight: (D, C / group, R, S).
        numbers: As :func:`_version1` or :func:`_version2` returns them.
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
    """Convolve ``input`` at shifted points.

    Args:
        input: (N, C, H, W).
        weight: (D, C / group, R, S).
        offset: (N, E * R * S * 2, P, Q), pairs (y, x).
        output: (N, D, P, Q), overwritten.
        columns: Scratch, unused.
        ones: Scratch, unused.
        geometry: See the top of the file.
    """
    input, weight, offset = widen(input, weight, offset)
    mask, bias = _unused_mask(input), _zero_bias(weight)
    output.copy_(torch.ops.torchvision.deform_conv2d(input, weight, offset, mask, bias, *_version1(geometry)))


def _version1_gradients(
    grad_output: Tensor, input: Tensor, weight: Tensor, offset: Tensor, geometry: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and offset."""
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
        columns: Scratch; holds the weight's gradient afterwards.
        geometry: See the top of the file.
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
        columns: Scratch; where :func:`deform_conv_backward_input` left the gradient, it is taken from there.
        ones: Scratch, unused.
        scale: Factor.
        geometry: See the top of the file.
    """
    if columns.shape == grad_weight.shape:
        weight_part = columns.clone()
        columns.resize_(0)  # taken once: the next backward pass may come with another gradient
    else:
        # The weight's own gradient does not depend on its values.
        _, weight_part, _ = _version1_gradients(grad_output, input, grad_weight, offset, geometry)
    grad_weight.add_(weight_part, alpha=scale)


def _output_size(input: Tensor, geometry: dict[str, int]) -> list[int]:
    """P and Q of version 2."""
    sizes = []
    for length, axis in zip(input.shape[2:], "hw", strict=True):
        window = geometry[f"dilation_{axis}"] * (geometry[f"kernel_{axis}"] - 1) + 1
        sizes.append((length + 2 * geometry[f"pad_{axis}"] - window) // geometry[f"stride_{axis}"] + 1)
    return sizes


def _read_as_row(name: str, maps: Tensor, size: list[int]) -> Tensor:
    """Return the first numbers of every image of ``maps`` (N, ..., any, any), as a view of maps of ``size``."""
    if list(maps.shape[2:]) == size:
        return maps
    needed = maps.shape[1] * size[0] * size[1]
    row = maps.flatten(1)
    if row.shape[1] < needed:
        raise UserError(f"{name} has the shape {tuple(maps.shape)}; the output needs at least {needed} numbers.")
    return row[:, :needed].unflatten(1, (maps.shape[1], *size))


def _add_as_row(target: Tensor, part: Tensor) -> None:
    """Add ``part`` where :func:`_read_as_row` read it."""
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
    """Convolve ``input`` at shifted points, each weighted by ``mask``.

    Args:
        input: (N, C, H, W).
        weight: (D, C / group, R, S).
        bias: (D,) where ``with_bias``, else empty.
        ones: Scratch, unused.
        offset: (N, E * R * S * 2, P, Q), pairs (y, x); larger maps are read as the top of the file says.
        mask: (N, E * R * S, P, Q), likewise.
        output: (N, D, P, Q), overwritten.
        columns: Scratch, unused.
        with_bias: Whether to add the bias.
        geometry: See the top of the file.

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

    They have the shapes of what they belong to; ``grad_bias`` is left alone without ``with_bias``. The other
    arguments are those of the forward function; ``grad_output`` is (N, D, P, Q).
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
