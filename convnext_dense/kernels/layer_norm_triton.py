"""LayerNorm over the last axis for GPUs: the forward pass and its three gradients.

Letters: R rows (all positions of all images), C channels, E bytes of a map.

Input and output may be 16-bit; statistics, parameters and sums are float32, which avoids autocast's widened output and
its casts. The backward pass reads the input and the output's gradient once (3 E); torch's eager kernels read them again
for the parameters (5 E). The gradients of the parameters are summed in two stages without atomics, so the same input
gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from convnext_dense.kernels.choice import ceil_div

_TILE = 2048  # numbers that a program holds at once
_PROGRAMS = 528  # for the gradients, one partial sum each: four on each of 132 multiprocessors
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
    channels: tl.constexpr,
    eps: tl.constexpr,
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
    bias_ptr,
    out_ptr,
    partial_ptr,
    rows,
    parts,
    channels: tl.constexpr,
    rebuilds: tl.constexpr,
    rows_block: tl.constexpr,
    channels_block: tl.constexpr,
):
    """Process every ``parts``-th tile of rows; the partial sums are the gradients of the weight, then of the bias."""
    part = tl.program_id(0)
    c = tl.arange(0, channels_block)
    in_channels = c < channels
    weight = tl.load(weight_ptr + c, mask=in_channels, other=0.0).to(tl.float32)
    if rebuilds:
        bias = tl.load(bias_ptr + c, mask=in_channels, other=0.0).to(tl.float32)
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
        if rebuilds:
            out = normalised * weight[None, :] + bias[None, :]
            tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)
        weight_sum += grad * normalised
        bias_sum += grad
        scaled = grad * weight[None, :]
        along = tl.sum(scaled * normalised, axis=1) / channels
        shift = tl.sum(scaled, axis=1) / channels
        x_grad = (scaled - normalised * along[:, None] - shift[:, None]) * rstd[:, None]
        tl.store(x_grad_ptr + place, x_grad.to(x_grad_ptr.dtype.element_ty), mask=mask)
    part_ptr = partial_ptr + part.to(tl.int64) * 2 * channels + c
    tl.store(part_ptr, tl.sum(weight_sum, axis=0), mask=in_channels)
    tl.store(part_ptr + channels, tl.sum(bias_sum, axis=0), mask=in_channels)


def _blocks_of(channels: int) -> tuple[int, int]:
    """Return the numbers of rows and channels of a tile that holds whole rows."""
    channels_block = 1 << (channels - 1).bit_length()
    return max(1, _TILE // channels_block), channels_block


def normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the output in ``dtype``, and the mean and inverse deviation of each row; ``x`` is contiguous."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    out = torch.empty_like(x, dtype=dtype)
    mean, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    if rows:
        rows_block, channels_block = _blocks_of(channels)
        _forward_kernel[(ceil_div(rows, rows_block),)](
            x, weight, bias, out, mean, rstd, rows, channels, eps, rows_block, channels_block
        )
    return out, mean, rstd


def number_of_parts(rows: int, channels: int) -> int:
    """Return how many partial sums ``differentiate`` writes for a map of this size."""
    return min(_PROGRAMS, ceil_div(rows, _blocks_of(channels)[0] * _TILES_PER_PROGRAM))


def differentiate(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    partial: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the gradient of ``x`` and, given the bias, the output; write those of weight and bias to ``partial``.

    Args:
        grad: Gradient of the output, ``(..., C)``, contiguous.
        x: The input, ``(..., C)``, contiguous.
        weight: ``(C,)``.
        mean: ``(R,)``.
        rstd: ``(R,)``.
        partial: ``(number_of_parts, 2, C)`` in float32.
        bias: ``(C,)``.
    """
    channels, parts = x.shape[-1], len(partial)
    x_grad = torch.empty_like(x)
    out = None if bias is None else torch.empty_like(x)
    if parts:
        _backward_kernel[(parts,)](
            grad, x, weight, mean, rstd, x_grad, weight if bias is None else bias, x_grad if out is None else out,
            partial, len(mean), parts, channels, out is not None, *_blocks_of(channels),
        )  # fmt: skip
    return x_grad, out


class LayerNormTriton(torch.autograd.Function):
    """``torch.nn.functional.layer_norm`` over the last axis, with an output of the given dtype."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Normalise, and keep the input and the statistics."""
        x = x.contiguous()
        out, mean, rstd = normalise(x, weight, bias, eps, dtype)
        ctx.save_for_backward(x, weight, mean, rstd)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input, weight and bias."""
        x, weight, mean, rstd = ctx.saved_tensors
        partial = x.new_empty(number_of_parts(len(mean), len(weight)), 2, len(weight), dtype=torch.float32)
        x_grad, _ = differentiate(grad.contiguous(), x, weight, mean, rstd, partial)
        weight_grad, bias_grad = partial.sum(0).to(weight.dtype).unbind()
        return x_grad, weight_grad, bias_grad, None, None
