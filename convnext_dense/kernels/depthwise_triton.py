"""Channels-last depthwise convolution for GPUs: the forward pass and the gradients of input, weights and bias.

Letters: N images, C channels, H height, W width, K kernel height and width (odd), E bytes of a 16-bit map.

Maps are stored as (N, H, W, C). H and W are run-time arguments that no kernel is specialised on, so images of other
sizes compile nothing new; C is a compile-time constant, with four values per network. Sums are float32. The gradient of
the weights is summed in two stages without atomics, so the same input gives the same bits.

A program walks down a strip of rows. Each row of the input is loaded K times, shifted, while the previous row is
multiplied, and is added to the K rows of the output that it contributes to. Those rows and the weights stay in
registers: 98 multiplications for 7 loads at K = 7. The gradient of the weights keeps the last K rows of the output's
gradient and one sum per weight in registers.
"""

# Tuples grow by addition: Triton's compiler has neither unpacking nor lists. mypy infers tuples of a fixed length.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import functools
from math import isqrt

import torch
import triton
import triton.language as tl
from torch import Tensor

from convnext_dense.kernels.choice import ceil_div

_BLOCK = 8, 32  # columns and channels; 64 would not divide the 96 channels of tiny and small
_WARPS = 4  # two channels per thread, whose weights or sums fill the registers
_MIN_ROWS = 8
_PROGRAMS = 1024
_PARTS = 396  # three programs of this size at once on each of 132 multiprocessors


@triton.jit
def _load_shifted(ptr, x, width, in_channels, channels: tl.constexpr, kernel_size: tl.constexpr):
    """Load what each column of the kernel sees of a row: K blocks of columns, each shifted right by one."""
    values = ()
    for j in tl.static_range(kernel_size):
        shift = j - kernel_size // 2
        mask = ((x + shift >= 0) & (x + shift < width))[:, None] & in_channels
        values = values + (tl.load(ptr + shift * channels, mask=mask, other=0.0),)
    return values


@triton.jit
def _convolve_row(
    values, weights, sums, empty, y, first, last, place, row_size, in_map, added_ptr, copy_ptr, out_ptr,
    kernel_size: tl.constexpr, adds: tl.constexpr, copies: tl.constexpr,
):  # fmt: skip
    """Add a row of the input to the sums, and store the row of the output that it completes."""
    halo: tl.constexpr = kernel_size // 2
    if copies:
        mask = (y >= first) & (y < last) & in_map
        tl.store(copy_ptr + place, values[halo].to(copy_ptr.dtype.element_ty), mask=mask)
    done = place - halo * row_size
    mask = (y - halo >= first) & in_map
    if adds:
        given = tl.load(added_ptr + done, mask=mask, other=0.0)
    for j in tl.static_range(kernel_size):
        value = values[j].to(tl.float32)
        added = ()
        for i in tl.static_range(kernel_size):
            added = added + (sums[i] + value * weights[i * kernel_size + j],)
        sums = added
    out = sums[kernel_size - 1]
    if adds:
        out += given.to(tl.float32)
    tl.store(out_ptr + done, out.to(out_ptr.dtype.element_ty), mask=mask)
    moved = (empty,)
    for i in tl.static_range(kernel_size - 1):
        moved = moved + (sums[i],)
    return moved


@triton.jit(do_not_specialize=["height", "width", "strips", "rows", "column_blocks"])
def _convolve_kernel(
    x_ptr, taps_ptr, bias_ptr, added_ptr, copy_ptr, out_ptr, height, width, strips, rows, column_blocks,
    channels: tl.constexpr, kernel_size: tl.constexpr, flipped: tl.constexpr, has_bias: tl.constexpr,
    adds: tl.constexpr, copies: tl.constexpr, columns_block: tl.constexpr, channels_block: tl.constexpr,
):  # fmt: skip
    """Convolve one block of channels and columns in one strip of an image's rows per program."""
    halo: tl.constexpr = kernel_size // 2
    channel_blocks: tl.constexpr = (channels + channels_block - 1) // channels_block
    c = tl.program_id(0) % channel_blocks * channels_block + tl.arange(0, channels_block)
    unit = tl.program_id(0) // channel_blocks
    x = unit % column_blocks * columns_block + tl.arange(0, columns_block)
    first = unit // column_blocks % strips * rows
    last = tl.minimum(first + rows, height)
    start, end = tl.maximum(first - halo, 0), tl.minimum(last + halo, height)
    row_size = (width * channels).to(tl.int64)
    in_channels = (c < channels)[None, :]
    in_map = (x < width)[:, None] & in_channels
    place = (unit // column_blocks // strips) * height * row_size + x[:, None] * channels + c[None, :]
    weights = ()
    for tap in tl.static_range(kernel_size * kernel_size):
        tap_ptr = taps_ptr + (kernel_size * kernel_size - 1 - tap if flipped else tap) * channels
        weights = weights + (tl.load(tap_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[None, :],)
    empty = tl.zeros((columns_block, channels_block), dtype=tl.float32)
    if has_bias:
        empty += tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    sums = (empty,) * kernel_size  # of the output's rows y + K // 2 ... y - K // 2
    values = _load_shifted(x_ptr + place + start * row_size, x, width, in_channels, channels, kernel_size)
    for y in range(start, end - 1, 2):  # two rows at a time, so that prefetched values are not moved
        row_ptr = x_ptr + place + (y + 1) * row_size
        following = _load_shifted(row_ptr, x, width, in_channels, channels, kernel_size)
        sums = _convolve_row(
            values, weights, sums, empty, y, first, last, place + y * row_size, row_size, in_map, added_ptr, copy_ptr,
            out_ptr, kernel_size, adds, copies,
        )  # fmt: skip
        row_ptr = x_ptr + place + tl.minimum(y + 2, height - 1) * row_size
        values = _load_shifted(row_ptr, x, width, in_channels, channels, kernel_size)
        sums = _convolve_row(
            following, weights, sums, empty, y + 1, first, last, place + (y + 1) * row_size, row_size, in_map,
            added_ptr, copy_ptr, out_ptr, kernel_size, adds, copies,
        )  # fmt: skip
    if (end - start) % 2 == 1:
        y = end - 1
        sums = _convolve_row(
            values, weights, sums, empty, y, first, last, place + y * row_size, row_size, in_map, added_ptr, copy_ptr,
            out_ptr, kernel_size, adds, copies,
        )  # fmt: skip
    for k in tl.static_range(halo):  # rows whose last inputs lie below the image
        done = end - halo + k
        mask = (done >= first) & (done < last) & in_map
        out = sums[kernel_size - 1 - k]
        if adds:
            out += tl.load(added_ptr + place + done * row_size, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + place + done * row_size, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _weigh_row(values, grad, sums, grads, kernel_size: tl.constexpr):
    """Advance the rows of the output's gradient by one, and add their products with a row of the input."""
    moved = ()
    for i in tl.static_range(kernel_size - 1):
        moved = moved + (grads[i + 1],)
    grads = moved + (grad.to(tl.float32),)
    added = ()
    for i in tl.static_range(kernel_size):
        for j in tl.static_range(kernel_size):
            product = values[j].to(tl.float32) * grads[kernel_size - 1 - i]
            added = added + (sums[i * kernel_size + j] + product,)
    return added, grads


@triton.jit(do_not_specialize=["height", "width", "strips", "rows", "column_blocks", "units", "parts"])
def _weight_grad_kernel(
    x_ptr, grad_ptr, partial_ptr, height, width, strips, rows, column_blocks, units, parts,
    channels: tl.constexpr, kernel_size: tl.constexpr, columns_block: tl.constexpr, channels_block: tl.constexpr,
):  # fmt: skip
    """Sum one block of channels over every ``parts``-th block of columns in a strip; tap K * K is the bias."""
    halo: tl.constexpr = kernel_size // 2
    c = tl.program_id(0) * channels_block + tl.arange(0, channels_block)
    part = tl.program_id(1)
    in_channels = (c < channels)[None, :]
    row_size = (width * channels).to(tl.int64)
    zero = tl.zeros((columns_block, channels_block), dtype=tl.float32)
    sums = (zero,) * (kernel_size * kernel_size)
    bias = zero
    for unit in range(part, units, parts):
        x = unit % column_blocks * columns_block + tl.arange(0, columns_block)
        first = unit // column_blocks % strips * rows
        last = tl.minimum(first + rows, height)
        start, end = tl.maximum(first - halo, 0), tl.minimum(last + halo, height)
        place = (unit // column_blocks // strips) * height * row_size + x[:, None] * channels + c[None, :]
        in_map = (x < width)[:, None] & in_channels
        grads = (zero,)  # the output's rows y - K // 2 ... y + K // 2, those of this strip
        for i in tl.static_range(kernel_size - 1):
            y = start - halo + i
            mask = (y >= first) & (y < last) & in_map
            grad = tl.load(grad_ptr + place + y * row_size, mask=mask, other=0.0).to(tl.float32)
            grads = grads + (grad,)
            bias += grad
        values = _load_shifted(x_ptr + place + start * row_size, x, width, in_channels, channels, kernel_size)
        below = start + halo
        mask = (below >= first) & (below < last) & in_map
        grad = tl.load(grad_ptr + place + below * row_size, mask=mask, other=0.0)
        bias += grad.to(tl.float32)
        for y in range(start, end - 1, 2):  # two rows at a time, so that prefetched values are not moved
            row = place + (y + 1) * row_size
            following = _load_shifted(x_ptr + row, x, width, in_channels, channels, kernel_size)
            mask = (y + 1 + halo >= first) & (y + 1 + halo < last) & in_map
            following_grad = tl.load(grad_ptr + row + halo * row_size, mask=mask, other=0.0)
            sums, grads = _weigh_row(values, grad, sums, grads, kernel_size)
            row = place + tl.minimum(y + 2, height - 1) * row_size
            values = _load_shifted(x_ptr + row, x, width, in_channels, channels, kernel_size)
            mask = (y + 2 < end) & (y + 2 + halo >= first) & (y + 2 + halo < last) & in_map
            grad = tl.load(grad_ptr + row + halo * row_size, mask=mask, other=0.0)
            sums, grads = _weigh_row(following, following_grad, sums, grads, kernel_size)
            bias += following_grad.to(tl.float32) + grad.to(tl.float32)
        if (end - start) % 2 == 1:
            sums, grads = _weigh_row(values, grad, sums, grads, kernel_size)
    out_ptr = partial_ptr + part.to(tl.int64) * (kernel_size * kernel_size + 1) * channels + c
    for tap in tl.static_range(kernel_size * kernel_size):
        tl.store(out_ptr + tap * channels, tl.sum(sums[tap], axis=0), mask=c < channels)
    tl.store(out_ptr + kernel_size * kernel_size * channels, tl.sum(bias, axis=0), mask=c < channels)


def _cut(images: int, height: int, width: int, channels: int) -> tuple[int, int, int, int]:
    """Return the numbers of blocks of channels, blocks of columns, strips of a map and rows of a strip.

    Strips are as high as possible with enough programs, because their halo is read and multiplied twice.
    """
    column_blocks, channel_blocks = ceil_div(width, _BLOCK[0]), ceil_div(channels, _BLOCK[1])
    strips = min(ceil_div(_PROGRAMS, images * channel_blocks * column_blocks), ceil_div(height, _MIN_ROWS))
    rows = ceil_div(height, strips)
    return channel_blocks, column_blocks, ceil_div(height, rows), rows


def convolve(
    x_nhwc: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    out: Tensor,
    *,
    flipped: bool = False,
    added: Tensor | None = None,
    copy: Tensor | None = None,
) -> None:
    """Write the convolution of a map, plus ``added``, into ``out``, and the map itself into ``copy``.

    Args:
        x_nhwc: ``(N, H, W, C)``, contiguous.
        taps: ``(K * K, C)``, contiguous.
        bias: ``(C,)`` or None.
        out: ``(N, H, W, C)``, contiguous, in the precision of the result.
        flipped: Whether the kernels are rotated by 180 degrees, which gives the gradient of the input.
        added: Like ``out``, or None.
        copy: Like ``out``, or None.
    """
    images, height, width, channels = x_nhwc.shape
    if out.numel() == 0:
        return
    channel_blocks, column_blocks, strips, rows = _cut(images, height, width, channels)
    _convolve_kernel[(images * strips * column_blocks * channel_blocks,)](
        x_nhwc, taps, taps if bias is None else bias, out if added is None else added, out if copy is None else copy,
        out, height, width, strips, rows, column_blocks,
        channels, isqrt(len(taps)), flipped, bias is not None, added is not None, copy is not None,
        *_BLOCK, num_warps=_WARPS,
    )  # fmt: skip


def number_of_parts(images: int, height: int, width: int, channels: int) -> int:
    """Return how many partial sums ``weight_grad`` writes for a map of this size."""
    channel_blocks, column_blocks, strips, _ = _cut(images, height, width, channels)
    return min(images * strips * column_blocks, max(1, _PARTS // channel_blocks))


def weight_grad(x_nhwc: Tensor, grad_nhwc: Tensor, kernel_size: int, partial: Tensor) -> None:
    """Write partial sums of the gradients of the taps and, in the last row, of the bias.

    Args:
        x_nhwc: ``(N, H, W, C)``, contiguous.
        grad_nhwc: ``(N, H, W, C)``, contiguous.
        kernel_size: K.
        partial: ``(number_of_parts, K * K + 1, C)`` in float32.
    """
    images, height, width, channels = x_nhwc.shape
    channel_blocks, column_blocks, strips, rows = _cut(images, height, width, channels)
    parts = len(partial)
    _weight_grad_kernel[(channel_blocks, parts)](
        x_nhwc, grad_nhwc, partial, height, width, strips, rows, column_blocks, images * strips * column_blocks, parts,
        channels, kernel_size, *_BLOCK, num_warps=_WARPS,
    )  # fmt: skip


def taps_of(weight: Tensor) -> Tensor:
    """Return ``(C, 1, K, K)`` weights as ``(K * K, C)``."""
    return weight.flatten(1).T.contiguous()


def _convolve(x_nchw: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool = False) -> Tensor:
    x_nhwc = x_nchw.permute(0, 2, 3, 1).contiguous()
    out = torch.empty_like(x_nhwc)
    convolve(x_nhwc, taps_of(weight), bias, out, flipped=flipped)
    return out.permute(0, 3, 1, 2)


def _weight_grad(x_nchw: Tensor, grad_nchw: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x_nhwc, grad_nhwc = (maps.permute(0, 2, 3, 1).contiguous() for maps in (x_nchw, grad_nchw))
    if x_nhwc.numel() == 0:
        return torch.zeros_like(weight), weight.new_zeros(len(weight))
    kernel_size = weight.shape[-1]
    parts = number_of_parts(*x_nhwc.shape)
    partial = weight.new_empty(parts, kernel_size * kernel_size + 1, len(weight), dtype=torch.float32)
    weight_grad(x_nhwc, grad_nhwc, kernel_size, partial)
    total = partial.sum(0)
    taps = total[:-1].T.view(weight.shape)
    return torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(taps), total[-1].to(
        weight.dtype, copy=True
    )


@torch.library.custom_op("convnext_dense::depthwise_triton", mutates_args=())
def depthwise(x_nchw: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool = False) -> Tensor:
    """Compute ``conv2d(x, weight, bias, padding=K // 2, groups=C)``, or with ``flipped`` the gradient of its input.

    Args:
        x_nchw: ``(N, C, H, W)`` in float32, bfloat16 or float16.
        weight: ``(C, 1, K, K)``.
        bias: ``(C,)`` or None.
        flipped: Whether the kernels are rotated by 180 degrees.

    Returns:
        ``(N, C, H, W)`` in channels-last memory and the input's precision.
    """
    return _convolve(x_nchw, weight, bias, flipped)


@torch.library.custom_op("convnext_dense::depthwise_weight_grad_triton", mutates_args=())
def depthwise_weight_grad(x_nchw: Tensor, grad_nchw: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of weights and bias.

    Args:
        x_nchw: The input, ``(N, C, H, W)``.
        grad_nchw: Gradient of the output, ``(N, C, H, W)``.
        weight: The weights, ``(C, 1, K, K)``.

    Returns:
        ``(C, 1, K, K)`` and ``(C,)``, in the weights' precision.
    """
    return _weight_grad(x_nchw, grad_nchw, weight)


@depthwise.register_fake
def _(x_nchw: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool = False) -> Tensor:
    return torch.empty_like(x_nchw, memory_format=torch.channels_last)


@depthwise_weight_grad.register_fake
def _(x_nchw: Tensor, grad_nchw: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight, memory_format=torch.contiguous_format), weight.new_empty(len(weight))


def _save(ctx, inputs, output) -> None:
    x_nchw, weight, bias, *flipped = inputs
    ctx.save_for_backward(x_nchw, weight)
    ctx.has_bias, ctx.flipped = bias is not None, any(flipped)


def _gradients(ctx, grad_nchw: Tensor, *, convolve=depthwise, differentiate=depthwise_weight_grad):
    x_nchw, weight = ctx.saved_tensors
    wants_x, *wants_parameters = ctx.needs_input_grad[:3]
    x_grad = convolve(grad_nchw, weight, None, not ctx.flipped) if wants_x else None
    weights_grad = bias_grad = None
    if any(wants_parameters):
        weights_grad, bias_grad = differentiate(x_nchw, grad_nchw, weight)
        weights_grad = weights_grad.flip(2, 3) if ctx.flipped else weights_grad
    return x_grad, weights_grad, bias_grad if ctx.has_bias else None, None


depthwise.register_autograd(_gradients, setup_context=_save)


class DepthwiseTriton(torch.autograd.Function):
    """``depthwise`` without the dispatcher, whose overhead would slow down eager steps; same arguments."""

    forward = staticmethod(_convolve)
    setup_context = staticmethod(_save)
    backward = staticmethod(
        torch.autograd.function.once_differentiable(
            functools.partial(_gradients, convolve=_convolve, differentiate=_weight_grad)
        )
    )
