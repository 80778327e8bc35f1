"""Channels-last depthwise convolution for GPUs: forward, gradient of the input, gradient of weights and bias.

Letters: N images, C channels, H height, W width, K kernel height and width (odd).

Memory is (N, H, W, C). H and W are run-time arguments that nothing is specialised on, so that images of other sizes
compile nothing new. Sums are float32. The gradient of the weights is summed in two stages without atomics: the same
input gives the same bits.

Not measured on a GPU yet: ``CONVNEXT_DENSE_GPU_DEPTHWISE=triton`` in the environment turns it on.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_COLUMNS = 16
_BLOCK_CHANNELS = 32  # divides every ConvNeXt's channels: 96 is no multiple of 64
_ROWS_PER_PROGRAM = 16  # of the gradient of the weights; their partial sums are added up in the second stage


@triton.jit(do_not_specialize=["height", "width"])
def _convolve_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    height,
    width,
    channels,
    kernel_size: tl.constexpr,
    flipped: tl.constexpr,
    has_bias: tl.constexpr,
    columns_block: tl.constexpr,
    channels_block: tl.constexpr,
):
    """One row's columns and a block of channels per program; the row is a row of all images one below the other."""
    row = tl.program_id(0).to(tl.int64)
    image_row = row - row % height
    y = row % height
    x = tl.program_id(1) * columns_block + tl.arange(0, columns_block)
    c = tl.program_id(2) * channels_block + tl.arange(0, channels_block)
    in_channels = c < channels
    total = tl.zeros((columns_block, channels_block), dtype=tl.float32)
    for i in range(kernel_size):
        from_y = y + i - kernel_size // 2
        for j in range(kernel_size):
            from_x = x + j - kernel_size // 2
            inside = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
            place = ((image_row + from_y) * width + from_x)[:, None] * channels + c[None, :]
            value = tl.load(x_ptr + place, mask=inside[:, None] & in_channels[None, :], other=0.0)
            tap = (kernel_size - 1 - i) * kernel_size + kernel_size - 1 - j if flipped else i * kernel_size + j
            factor = tl.load(weight_ptr + tap * channels + c, mask=in_channels, other=0.0)
            total += value.to(tl.float32) * factor.to(tl.float32)[None, :]
    if has_bias:
        total += tl.load(bias_ptr + c, mask=in_channels, other=0.0).to(tl.float32)[None, :]
    place = (row * width + x)[:, None] * channels + c[None, :]
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=(x < width)[:, None] & in_channels[None, :])


@triton.jit(do_not_specialize=["height", "width", "rows"])
def _weight_grad_kernel(
    x_ptr,
    grad_ptr,
    partial_ptr,
    height,
    width,
    channels,
    rows,
    kernel_size: tl.constexpr,
    taps_block: tl.constexpr,
    rows_block: tl.constexpr,
    columns_block: tl.constexpr,
    channels_block: tl.constexpr,
):
    """One row of the kernel, some rows of the map and a block of channels per program; tap K is the bias."""
    part = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1)
    c = tl.program_id(2) * channels_block + tl.arange(0, channels_block)
    in_channels = c < channels
    taps = tl.arange(0, taps_block)
    total = tl.zeros((taps_block, channels_block), dtype=tl.float32)
    for row in range(part * rows_block, min(part * rows_block + rows_block, rows)):
        from_y = row % height + i - kernel_size // 2
        from_row = row + i - kernel_size // 2
        for start in range(0, width, columns_block):
            x = start + tl.arange(0, columns_block)
            place = (row * width + x)[:, None] * channels + c[None, :]
            grad = tl.load(grad_ptr + place, mask=(x < width)[:, None] & in_channels[None, :], other=0.0).to(tl.float32)
            total += tl.where(taps[:, None] == kernel_size, tl.sum(grad, axis=0)[None, :], 0.0)
            for j in range(kernel_size):
                from_x = x + j - kernel_size // 2
                inside = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
                place = (from_row * width + from_x)[:, None] * channels + c[None, :]
                value = tl.load(x_ptr + place, mask=inside[:, None] & in_channels[None, :], other=0.0)
                products = tl.sum(value.to(tl.float32) * grad, axis=0)
                total += tl.where(taps[:, None] == j, products[None, :], 0.0)
    place = ((part * kernel_size + i) * taps_block + taps)[:, None] * channels + c[None, :]
    tl.store(partial_ptr + place, total, mask=(taps < taps_block)[:, None] & in_channels[None, :])


@torch.library.custom_op("convnext_dense::depthwise_triton", mutates_args=())
def depthwise(x_nchw: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool) -> Tensor:
    """``conv2d(x, weight, bias, padding=K // 2, groups=C)``; with ``flipped`` weights the gradient of its input.

    Args:
        x_nchw: ``(N, C, H, W)``.
        weight: ``(C, 1, K, K)``.
        bias: ``(C,)`` or None.
        flipped: Whether the weights are turned by half a circle.

    Returns:
        ``(N, C, H, W)`` in channels-last memory and the input's precision.
    """
    x_nchw = x_nchw.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x_nchw.shape
    out = torch.empty_like(x_nchw)
    if out.numel():
        kernel_size = weight.shape[-1]
        taps = weight.flatten(1).T.contiguous()
        grid = (images * height, triton.cdiv(width, _BLOCK_COLUMNS), triton.cdiv(channels, _BLOCK_CHANNELS))
        _convolve_kernel[grid](
            x_nchw, taps, taps if bias is None else bias, out, height, width, channels,
            kernel_size=kernel_size, flipped=flipped, has_bias=bias is not None,
            columns_block=_BLOCK_COLUMNS, channels_block=_BLOCK_CHANNELS,
        )  # fmt: skip
    return out


@depthwise.register_fake
def _(x_nchw: Tensor, weight: Tensor, bias: Tensor | None, flipped: bool) -> Tensor:
    return torch.empty_like(x_nchw, memory_format=torch.channels_last)


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
    x_nchw = x_nchw.contiguous(memory_format=torch.channels_last)
    grad_nchw = grad_nchw.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x_nchw.shape
    taps = triton.next_power_of_2(kernel_size + 1)
    parts = triton.cdiv(images * height, _ROWS_PER_PROGRAM)
    partial = x_nchw.new_zeros(parts, kernel_size, taps, channels, dtype=torch.float32)
    if x_nchw.numel():
        grid = (parts, kernel_size, triton.cdiv(channels, _BLOCK_CHANNELS))
        _weight_grad_kernel[grid](
            x_nchw, grad_nchw, partial, height, width, channels, images * height,
            kernel_size=kernel_size, taps_block=taps, rows_block=_ROWS_PER_PROGRAM,
            columns_block=_BLOCK_COLUMNS, channels_block=_BLOCK_CHANNELS,
        )  # fmt: skip
    total = partial.sum(0)
    weight_grad = total[:, :kernel_size].permute(2, 0, 1)[:, None].to(x_nchw.dtype, copy=True)
    return weight_grad.contiguous(), total[0, kernel_size].to(x_nchw.dtype, copy=True)


@depthwise_weight_grad.register_fake
def _(x_nchw: Tensor, grad_nchw: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    channels = x_nchw.shape[1]
    return x_nchw.new_empty(channels, 1, kernel_size, kernel_size), x_nchw.new_empty(channels)


class DepthwiseTriton(torch.autograd.Function):
    """The convolution on a GPU with its three gradients."""

    @staticmethod
    def forward(x_nchw: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Arguments as for ``depthwise``."""
        return depthwise(x_nchw, weight, bias, False)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Keeps what the gradients need."""
        x_nchw, weight, bias = inputs
        ctx.save_for_backward(x_nchw, weight)
        ctx.has_bias = bias is not None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_nchw: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input, the weights and the bias."""
        x_nchw, weight = ctx.saved_tensors
        weight_grad = bias_grad = None
        if any(ctx.needs_input_grad[1:]):
            weight_grad, bias_grad = depthwise_weight_grad(x_nchw, grad_nchw, weight.shape[-1])
        x_grad = depthwise(grad_nchw, weight, None, True) if ctx.needs_input_grad[0] else None
        return x_grad, weight_grad, bias_grad if ctx.has_bias else None
