"""LayerNorm over the last axis for GPUs: forward and its three gradients.

Letters: R rows (all positions of all images), C channels, E bytes of a map.

Input and output may be 16-bit; statistics, parameters and sums are float32, which spares autocast's widened output and
its casts. The gradients read the input and the output's gradient once: 3 E, where torch's eager kernels read them again
for the parameters (5 E). Those of the parameters are summed in two stages without atomics: the same input gives the
same bits. Not measured on a GPU.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # numbers that a program holds at once
_PROGRAMS = 1024  # of the gradients, each of which leaves a partial sum
_TILES_PER_PROGRAM = 8  # at least, so that partial sums stay few


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    mean_ptr,
    rstd_ptr,
    rows,
    channels,
    eps,
    rows_block: tl.constexpr,
    channels_block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * rows_block + tl.arange(0, rows_block)
    c = tl.arange(0, channels_block)
    place = row[:, None] * channels + c[None, :]
    mask = (row < rows)[:, None] & (c < channels)[None, :]
    x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1) / channels
    centered = tl.where(mask, x - mean[:, None], 0.0)
    rstd = 1 / tl.sqrt(tl.sum(centered * centered, axis=1) / channels + eps)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    out = centered * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + row, mean, mask=row < rows)
    tl.store(rstd_ptr + row, rstd, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "parts"])
def _backward_kernel(
    grad_ptr,
    x_ptr,
    weight_ptr,
    mean_ptr,
    rstd_ptr,
    x_grad_ptr,
    partial_ptr,
    rows,
    channels,
    parts,
    rows_block: tl.constexpr,
    channels_block: tl.constexpr,
):
    """Every so many tiles of rows per program; its partial sums are the weights' gradient, then the bias'."""
    part = tl.program_id(0)
    c = tl.arange(0, channels_block)
    in_channels = c < channels
    weight = tl.load(weight_ptr + c, mask=in_channels, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((rows_block, channels_block), dtype=tl.float32)
    bias_sum = tl.zeros((rows_block, channels_block), dtype=tl.float32)
    for tile in range(part, tl.cdiv(rows, rows_block), parts):
        row = (tile * rows_block + tl.arange(0, rows_block)).to(tl.int64)
        place = row[:, None] * channels + c[None, :]
        mask = (row < rows)[:, None] & in_channels[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + row, mask=row < rows, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)
        normalised = tl.where(mask, (x - mean[:, None]) * rstd[:, None], 0.0)
        weight_sum += grad * normalised
        bias_sum += grad
        scaled = grad * weight[None, :]
        along = tl.sum(scaled * normalised, axis=1) / channels
        shift = tl.sum(scaled, axis=1) / channels
        x_grad = (scaled - normalised * along[:, None] - shift[:, None]) * rstd[:, None]
        tl.store(x_grad_ptr + place, x_grad.to(x_grad_ptr.dtype.element_ty), mask=mask)
    out_ptr = partial_ptr + part.to(tl.int64) * 2 * channels + c
    tl.store(out_ptr, tl.sum(weight_sum, axis=0), mask=in_channels)
    tl.store(out_ptr + channels, tl.sum(bias_sum, axis=0), mask=in_channels)


def _blocks_of(channels: int) -> tuple[int, int]:
    """Rows and channels of a tile that holds whole rows."""
    channels_block = triton.next_power_of_2(channels)
    return max(1, _TILE // channels_block), channels_block


def _normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    x = x.contiguous()
    channels = x.shape[-1]
    rows = x.numel() // channels
    out = torch.empty_like(x)
    mean, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    if rows:
        rows_block, channels_block = _blocks_of(channels)
        _forward_kernel[(triton.cdiv(rows, rows_block),)](
            x, weight, bias, out, mean, rstd, rows, channels, eps, rows_block=rows_block, channels_block=channels_block
        )
    return out, mean, rstd


def _differentiate(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad, x = grad.contiguous(), x.contiguous()
    channels = x.shape[-1]
    rows = x.numel() // channels
    x_grad, total = torch.empty_like(x), x.new_zeros(2, channels, dtype=torch.float32)
    if rows:
        rows_block, channels_block = _blocks_of(channels)
        parts = min(_PROGRAMS, triton.cdiv(rows, rows_block * _TILES_PER_PROGRAM))
        partial = x.new_empty(parts, 2, channels, dtype=torch.float32)
        _backward_kernel[(parts,)](
            grad, x, weight, mean, rstd, x_grad, partial, rows, channels, parts,
            rows_block=rows_block, channels_block=channels_block,
        )  # fmt: skip
        total = partial.sum(0)
    return x_grad, total[0].to(weight.dtype, copy=True), total[1].to(weight.dtype, copy=True)


@torch.library.custom_op("convnext_dense::layer_norm_triton", mutates_args=())
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.nn.functional.layer_norm`` over the last axis, in the input's precision.

    Args:
        x: ``(..., C)`` in float32, bfloat16 or float16.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: Added to the variance.

    Returns:
        ``(..., C)``, and the mean and the inverse deviation of each row, ``(R,)`` in float32.
    """
    return _normalise(x, weight, bias, eps)


@torch.library.custom_op("convnext_dense::layer_norm_backward_triton", mutates_args=())
def layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias from that of the output; arguments as in and out of ``layer_norm``."""
    return _differentiate(grad, x, weight, mean, rstd)


@layer_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.contiguous_format), statistics, torch.empty_like(statistics)


@layer_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x_grad = torch.empty_like(x, memory_format=torch.contiguous_format)
    return x_grad, torch.empty_like(weight), torch.empty_like(weight)


def _save(ctx, inputs, output) -> None:
    x, weight, _, _ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, weight, mean, rstd)


def _gradients(ctx, grad: Tensor, *of_statistics, differentiate=layer_norm_backward):
    return *differentiate(grad, *ctx.saved_tensors), None


layer_norm.register_autograd(_gradients, setup_context=_save)


class LayerNormTriton(torch.autograd.Function):
    """``layer_norm`` without the dispatcher, on whose way an eager step would wait; arguments as there."""

    forward = staticmethod(_normalise)
    setup_context = staticmethod(_save)
    backward = staticmethod(  # type: ignore[assignment]
        torch.autograd.function.once_differentiable(functools.partial(_gradients, differentiate=_differentiate))
    )
