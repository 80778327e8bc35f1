"""Channels-last depthwise convolution for GPUs: forward, gradient of the input, gradient of weights and bias.

Letters: N images, C channels, H height, W width, K kernel height and width (odd), E bytes of a map.

Memory is (N, H, W, C). H and W are run-time arguments that nothing is specialised on, so that images of other sizes
compile nothing new. Sums are float32. The gradient of the weights is summed in two stages without atomics: the same
input gives the same bits.

A program walks down a strip of rows. Each row of the input is loaded K times, shifted, and added to the K rows of the
output that it belongs to, which stay in registers as the weights do: 98 multiplications for 7 loads at K = 7. The
gradient of the weights keeps the last K rows of the output's gradient and a sum per weight in registers. Bytes moved,
caches aside: 2 E forward, 2 E for the input's gradient, 2 E for the weights'. Compiled for sm_90 they use 164 and 163
registers and spill none (Triton 3.8.0, bfloat16); times on a GPU are not measured.
"""

# Tuples grow by sums: Triton's compiler knows neither unpacking nor lists. mypy takes them for tuples of one length.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_COLUMNS = 8
_BLOCK_CHANNELS = 32  # divides every ConvNeXt's channels: 96 is no multiple of 64
_STRIP_ROWS = 32
_PROGRAMS = 1024  # of the gradient of the weights, each of which leaves a partial sum: 6.5 MB at K = 7


@triton.jit
def _load_row(ptr, row, x, c, width, channels, is_row, in_channels):
    mask = is_row & (x >= 0) & (x < width)
    place = (row * width + x)[:, None] * channels + c[None, :]
    return tl.load(ptr + place, mask=mask[:, None] & in_channels[None, :], other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["height", "width", "strips", "rows"])
def _convolve_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    height,
    width,
    channels,
    strips,
    rows,
    kernel_size: tl.constexpr,
    flipped: tl.constexpr,
    has_bias: tl.constexpr,
    columns_block: tl.constexpr,
    channels_block: tl.constexpr,
):
    """A strip of one image's rows, a block of columns and a block of channels per program."""
    image = (tl.program_id(0) // strips).to(tl.int64)
    first = tl.program_id(0) % strips * rows
    last = tl.minimum(first + rows, height)
    x = tl.program_id(1) * columns_block + tl.arange(0, columns_block)
    c = tl.program_id(2) * channels_block + tl.arange(0, channels_block)
    in_channels = c < channels
    weights = ()
    for tap in tl.static_range(kernel_size * kernel_size):
        tap_ptr = weight_ptr + (kernel_size * kernel_size - 1 - tap if flipped else tap) * channels
        weights = weights + (tl.load(tap_ptr + c, mask=in_channels, other=0.0).to(tl.float32)[None, :],)
    start = tl.zeros((columns_block, channels_block), dtype=tl.float32)
    if has_bias:
        start += tl.load(bias_ptr + c, mask=in_channels, other=0.0).to(tl.float32)[None, :]
    sums = (start,) * kernel_size  # of the output's rows y + K // 2 ... y - K // 2
    for y in range(first - kernel_size // 2, last + kernel_size // 2):
        if (y >= 0) & (y < height):
            for j in tl.static_range(kernel_size):
                from_x = x + j - kernel_size // 2
                value = _load_row(x_ptr, image * height + y, from_x, c, width, channels, True, in_channels)
                added = ()
                for i in tl.static_range(kernel_size):
                    added = added + (sums[i] + value * weights[i * kernel_size + j],)
                sums = added
        done = y - kernel_size // 2
        place = ((image * height + done) * width + x)[:, None] * channels + c[None, :]
        mask = (done >= first) & (x < width)[:, None] & in_channels[None, :]
        tl.store(out_ptr + place, sums[kernel_size - 1].to(out_ptr.dtype.element_ty), mask=mask)
        moved = (start,)
        for i in tl.static_range(kernel_size - 1):
            moved = moved + (sums[i],)
        sums = moved


@triton.jit(do_not_specialize=["height", "width", "strips", "rows", "column_blocks", "units", "parts"])
def _weight_grad_kernel(
    x_ptr,
    grad_ptr,
    partial_ptr,
    height,
    width,
    channels,
    strips,
    rows,
    column_blocks,
    units,
    parts,
    kernel_size: tl.constexpr,
    columns_block: tl.constexpr,
    channels_block: tl.constexpr,
):
    """Every so many strips and blocks of columns, and a block of channels, per program; tap K * K is the bias."""
    part = tl.program_id(0)
    c = tl.program_id(1) * channels_block + tl.arange(0, channels_block)
    in_channels = c < channels
    zero = tl.zeros((columns_block, channels_block), dtype=tl.float32)
    sums = (zero,) * (kernel_size * kernel_size)
    bias = zero
    for unit in range(part, units, parts):
        x = unit % column_blocks * columns_block + tl.arange(0, columns_block)
        image = (unit // column_blocks // strips).to(tl.int64)
        first = unit // column_blocks % strips * rows
        last = tl.minimum(first + rows, height)
        grads = (zero,) * kernel_size  # the output's rows y - K // 2 ... y + K // 2, those of this strip
        for y in range(first - kernel_size // 2, last + kernel_size // 2):
            ahead = y + kernel_size // 2
            grad = _load_row(grad_ptr, image * height + ahead, x, c, width, channels, ahead < last, in_channels)
            bias += grad
            moved = ()
            for i in tl.static_range(kernel_size - 1):
                moved = moved + (grads[i + 1],)
            grads = moved + (grad,)
            if (y >= 0) & (y < height):
                values = ()
                for j in tl.static_range(kernel_size):
                    from_x = x + j - kernel_size // 2
                    value = _load_row(x_ptr, image * height + y, from_x, c, width, channels, True, in_channels)
                    values = values + (value,)
                added = ()
                for i in tl.static_range(kernel_size):
                    for j in tl.static_range(kernel_size):
                        product = values[j] * grads[kernel_size - 1 - i]
                        added = added + (sums[i * kernel_size + j] + product,)
                sums = added
    out_ptr = partial_ptr + part.to(tl.int64) * (kernel_size * kernel_size + 1) * channels
    for tap in tl.static_range(kernel_size * kernel_size):
        tl.store(out_ptr + tap * channels + c, tl.sum(sums[tap], axis=0), mask=in_channels)
    tl.store(out_ptr + kernel_size * kernel_size * channels + c, tl.sum(bias, axis=0), mask=in_channels)


def _strips(height: int) -> tuple[int, int]:
    """Number of strips of a map and the rows of one."""
    strips = triton.cdiv(height, _STRIP_ROWS)
    return strips, triton.cdiv(height, strips)


def _convolve(x_nchw: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool = False) -> Tensor:
    x_nchw = x_nchw.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x_nchw.shape
    out = torch.empty_like(x_nchw)
    if out.numel():
        strips, rows = _strips(height)
        taps = weight.flatten(1).T.contiguous()
        grid = (images * strips, triton.cdiv(width, _BLOCK_COLUMNS), triton.cdiv(channels, _BLOCK_CHANNELS))
        _convolve_kernel[grid](
            x_nchw, taps, taps if bias is None else bias, out, height, width, channels, strips, rows,
            kernel_size=weight.shape[-1], flipped=flipped, has_bias=bias is not None,
            columns_block=_BLOCK_COLUMNS, channels_block=_BLOCK_CHANNELS,
        )  # fmt: skip
    return out


def _weight_grad(x_nchw: Tensor, grad_nchw: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    x_nchw = x_nchw.contiguous(memory_format=torch.channels_last)
    grad_nchw = grad_nchw.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x_nchw.shape
    taps = kernel_size * kernel_size
    total = x_nchw.new_zeros(taps + 1, channels, dtype=torch.float32)
    if x_nchw.numel():
        strips, rows = _strips(height)
        column_blocks, channel_blocks = triton.cdiv(width, _BLOCK_COLUMNS), triton.cdiv(channels, _BLOCK_CHANNELS)
        units = images * strips * column_blocks
        parts = min(units, triton.cdiv(_PROGRAMS, channel_blocks))
        partial = x_nchw.new_empty(parts, taps + 1, channels, dtype=torch.float32)
        _weight_grad_kernel[(parts, channel_blocks)](
            x_nchw, grad_nchw, partial, height, width, channels, strips, rows, column_blocks, units, parts,
            kernel_size=kernel_size, columns_block=_BLOCK_COLUMNS, channels_block=_BLOCK_CHANNELS,
        )  # fmt: skip
        total = partial.sum(0)
    weight_grad = total[:taps].T.reshape(channels, 1, kernel_size, kernel_size)
    return weight_grad.to(x_nchw.dtype).contiguous(), total[taps].to(x_nchw.dtype, copy=True)


@torch.library.custom_op("convnext_dense::depthwise_triton", mutates_args=())
def depthwise(x_nchw: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool = False) -> Tensor:
    """``conv2d(x, weight, bias, padding=K // 2, groups=C)``; with ``flipped`` weights the gradient of its input.

    Args:
        x_nchw: ``(N, C, H, W)`` in float32, bfloat16 or float16.
        weight: ``(C, 1, K, K)``.
        bias: ``(C,)`` or None.
        flipped: Whether the weights are turned by half a circle.

    Returns:
        ``(N, C, H, W)`` in channels-last memory and the input's precision.
    """
    return _convolve(x_nchw, weight, bias, flipped)


@torch.library.custom_op("convnext_dense::depthwise_weight_grad_triton", mutates_args=())
def depthwise_weight_grad(x_nchw: Tensor, grad_nchw: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Gradients of weights and bias.

    Args:
        x_nchw: The input, ``(N, C, H, W)``.
        grad_nchw: Gradient of the output, ``(N, C, H, W)``.
        kernel_size: K, odd.

    Returns:
        ``(C, 1, K, K)`` and ``(C,)``, in the input's precision.
    """
    return _weight_grad(x_nchw, grad_nchw, kernel_size)


@depthwise.register_fake
def _(x_nchw: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool = False) -> Tensor:
    return torch.empty_like(x_nchw, memory_format=torch.channels_last)


@depthwise_weight_grad.register_fake
def _(x_nchw: Tensor, grad_nchw: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    channels = x_nchw.shape[1]
    return x_nchw.new_empty(channels, 1, kernel_size, kernel_size), x_nchw.new_empty(channels)


def _save(ctx, inputs, output) -> None:
    x_nchw, weight, bias, *flipped = inputs
    ctx.save_for_backward(x_nchw, weight)
    ctx.has_bias, ctx.flipped = bias is not None, any(flipped)


def _gradients(ctx, grad_nchw: Tensor, *, convolve=depthwise, weight_grad=depthwise_weight_grad):
    x_nchw, weight = ctx.saved_tensors
    wants_x, *wants_parameters = ctx.needs_input_grad[:3]
    x_grad = convolve(grad_nchw, weight, None, not ctx.flipped) if wants_x else None
    weights_grad = bias_grad = None
    if any(wants_parameters):
        weights_grad, bias_grad = weight_grad(x_nchw, grad_nchw, weight.shape[-1])
        weights_grad = weights_grad.flip(2, 3) if ctx.flipped else weights_grad
    return x_grad, weights_grad, bias_grad if ctx.has_bias else None, None


depthwise.register_autograd(_gradients, setup_context=_save)


class DepthwiseTriton(torch.autograd.Function):
    """``depthwise`` without the dispatcher, on whose way an eager step would wait; arguments as there."""

    forward = staticmethod(_convolve)
    setup_context = staticmethod(_save)
    backward = staticmethod(
        torch.autograd.function.once_differentiable(
            functools.partial(_gradients, convolve=_convolve, weight_grad=_weight_grad)
        )
    )
