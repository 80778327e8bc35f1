"""Triton kernels between the matrix products of a block (see ``block_triton``); maps are ``(R, C)`` and contiguous.

Letters: R rows, C channels.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "positions"])
def add_kernel(
    shortcut_ptr, branch_ptr, scale_ptr, out_ptr, rows, positions, channels: tl.constexpr,
    has_scale: tl.constexpr, rows_block: tl.constexpr, channels_block: tl.constexpr,
):  # fmt: skip
    """Add the shortcut to the branch, which is multiplied by the scale of its image."""
    row = tl.program_id(0).to(tl.int64) * rows_block + tl.arange(0, rows_block)
    c = tl.program_id(1) * channels_block + tl.arange(0, channels_block)
    place = row[:, None] * channels + c[None, :]
    mask = (row < rows)[:, None] & (c < channels)[None, :]
    branch = tl.load(branch_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if has_scale:
        branch *= tl.load(scale_ptr + row // positions, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    out = tl.load(shortcut_ptr + place, mask=mask, other=0.0).to(tl.float32) + branch
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "positions", "parts"])
def branch_grad_kernel(
    grad_ptr, scale_ptr, branch_grad_ptr, partial_ptr, rows, positions, parts, channels: tl.constexpr,
    has_scale: tl.constexpr, rows_block: tl.constexpr, channels_block: tl.constexpr,
):  # fmt: skip
    """Scale the gradient of each image, and sum it over every ``parts``-th tile of rows."""
    part = tl.program_id(0)
    c = tl.program_id(1) * channels_block + tl.arange(0, channels_block)
    total = tl.zeros((rows_block, channels_block), dtype=tl.float32)
    for tile in range(part, tl.cdiv(rows, rows_block), parts):
        row = (tile * rows_block + tl.arange(0, rows_block)).to(tl.int64)
        place = row[:, None] * channels + c[None, :]
        mask = (row < rows)[:, None] & (c < channels)[None, :]
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        if has_scale:
            grad *= tl.load(scale_ptr + row // positions, mask=row < rows, other=0.0).to(tl.float32)[:, None]
        total += grad
        tl.store(branch_grad_ptr + place, grad.to(branch_grad_ptr.dtype.element_ty), mask=mask)
    tl.store(partial_ptr + part.to(tl.int64) * channels + c, tl.sum(total, axis=0), mask=c < channels)


@triton.jit(do_not_specialize=["rows", "parts"])
def gelu_grad_kernel(
    grad_ptr, hidden_ptr, out_ptr, hidden_grad_ptr, partial_ptr, rows, parts, channels: tl.constexpr,
    exact: tl.constexpr, rows_block: tl.constexpr, channels_block: tl.constexpr,
):  # fmt: skip
    """Recompute GELU, compute its gradient, and sum the gradient over every ``parts``-th tile of rows."""
    part = tl.program_id(0)
    c = tl.program_id(1) * channels_block + tl.arange(0, channels_block)
    total = tl.zeros((rows_block, channels_block), dtype=tl.float32)
    for tile in range(part, tl.cdiv(rows, rows_block), parts):
        row = (tile * rows_block + tl.arange(0, rows_block)).to(tl.int64)
        place = row[:, None] * channels + c[None, :]
        mask = (row < rows)[:, None] & (c < channels)[None, :]
        hidden = tl.load(hidden_ptr + place, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        pdf = tl.exp(-0.5 * hidden * hidden)
        if exact:
            cdf = 0.5 + 0.5 * tl.erf(hidden * 0.7071067811865476)  # 1 / sqrt(2)
        else:
            t = 1 / (1 + 0.3275911 * 0.7071067811865476 * tl.abs(hidden))
            series = 1.421413741 + t * (-1.453152027 + t * 1.061405429)
            tail = 0.5 * pdf * t * (0.254829592 + t * (-0.284496736 + t * series))
            cdf = tl.where(hidden < 0, tail, 1 - tail)
        tl.store(out_ptr + place, (hidden * cdf).to(out_ptr.dtype.element_ty), mask=mask)
        hidden_grad = grad * (cdf + hidden * pdf * 0.3989422804014327)  # 1 / sqrt(2 pi)
        total += hidden_grad
        tl.store(hidden_grad_ptr + place, hidden_grad.to(hidden_grad_ptr.dtype.element_ty), mask=mask)
    tl.store(partial_ptr + part.to(tl.int64) * channels + c, tl.sum(total, axis=0), mask=c < channels)


@triton.jit
def narrow_kernel(
    weight_ptr, weight1_ptr, bias1_ptr, weight2_ptr, bias2_ptr, gamma_ptr, out_ptr, taps_ptr,
    channels: tl.constexpr, hidden: tl.constexpr, taps: tl.constexpr, has_gamma: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Cast both linear layers' parameters, fold layer scale into the second, and order the depthwise weights by tap."""
    size: tl.constexpr = channels * hidden
    i = tl.program_id(0) * block + tl.arange(0, block)
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr + i, tl.load(weight1_ptr + i, mask=i < size).to(dtype), mask=i < size)
    weight2 = tl.load(weight2_ptr + i, mask=i < size).to(tl.float32)
    bias2 = tl.load(bias2_ptr + i, mask=i < channels).to(tl.float32)
    if has_gamma:
        weight2 *= tl.load(gamma_ptr + i // hidden, mask=i < size).to(tl.float32)
        bias2 *= tl.load(gamma_ptr + i, mask=i < channels).to(tl.float32)
    tl.store(out_ptr + size + i, weight2.to(dtype), mask=i < size)
    tl.store(out_ptr + 2 * size + i, tl.load(bias1_ptr + i, mask=i < hidden).to(dtype), mask=i < hidden)
    tl.store(out_ptr + 2 * size + hidden + i, bias2.to(dtype), mask=i < channels)
    in_taps = i < taps * channels
    tap = tl.load(weight_ptr + i, mask=in_taps).to(tl.float32)
    tl.store(taps_ptr + i % taps * channels + i // taps, tap, mask=in_taps)


@triton.jit
def _sum_columns(partial_ptr, parts, columns: tl.constexpr, column, rows_block: tl.constexpr):
    total = tl.zeros((rows_block, column.shape[0]), dtype=tl.float32)
    for first in range(0, parts, rows_block):
        row = first + tl.arange(0, rows_block)
        mask = (row < parts)[:, None] & (column < columns)[None, :]
        total += tl.load(partial_ptr + row[:, None] * columns + column[None, :], mask=mask, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["norm_parts", "taps_parts", "bias1_parts", "bias2_parts"])
def finish_kernel(
    norm_ptr, taps_ptr, bias1_partial_ptr, bias2_partial_ptr, weight2_ptr, weight2_grad_ptr, bias2_ptr, gamma_ptr,
    out_ptr, norm_parts, taps_parts, bias1_parts, bias2_parts,
    channels: tl.constexpr, hidden: tl.constexpr, taps: tl.constexpr, has_gamma: tl.constexpr,
    hidden_block: tl.constexpr, rows_block: tl.constexpr, columns_block: tl.constexpr,
):  # fmt: skip
    """Sum partial sums into the gradients of the parameters, in ``out`` in the order of ``block_triton._backward``.

    The first programs, one per channel, handle layer scale and what it scales; the others handle blocks of columns.
    """
    dtype = out_ptr.dtype.element_ty
    depthwise_place: tl.constexpr = 2 * channels
    bias1_place: tl.constexpr = depthwise_place + (taps + 1) * channels
    bias2_place: tl.constexpr = bias1_place + hidden
    norm_blocks: tl.constexpr = (2 * channels + columns_block - 1) // columns_block
    taps_blocks: tl.constexpr = ((taps + 1) * channels + columns_block - 1) // columns_block
    unit = tl.program_id(0) - channels
    if unit < 0:
        c = tl.program_id(0)
        bias2_grad = tl.sum(_sum_columns(bias2_partial_ptr, bias2_parts, channels, c + tl.arange(0, 1), 256), axis=0)
        if has_gamma:
            h = tl.arange(0, hidden_block)
            grad_ptr = weight2_grad_ptr + c * hidden + h
            grad = tl.load(grad_ptr, mask=h < hidden, other=0.0).to(tl.float32)
            weight2 = tl.load(weight2_ptr + c * hidden + h, mask=h < hidden, other=0.0).to(tl.float32)
            gamma_grad = tl.sum(grad * weight2, axis=0) + bias2_grad * tl.load(bias2_ptr + c).to(tl.float32)
            tl.store(out_ptr + bias2_place + channels + c, gamma_grad.to(dtype))
            gamma = tl.load(gamma_ptr + c).to(tl.float32)
            tl.store(grad_ptr, (grad * gamma).to(weight2_grad_ptr.dtype.element_ty), mask=h < hidden)
            bias2_grad *= gamma
        tl.store(out_ptr + bias2_place + c, bias2_grad.to(dtype))
    elif unit < norm_blocks:
        column = unit * columns_block + tl.arange(0, columns_block)
        total = _sum_columns(norm_ptr, norm_parts, 2 * channels, column, rows_block)
        tl.store(out_ptr + column, total.to(dtype), mask=column < 2 * channels)
    elif unit < norm_blocks + taps_blocks:
        column = (unit - norm_blocks) * columns_block + tl.arange(0, columns_block)
        total = _sum_columns(taps_ptr, taps_parts, (taps + 1) * channels, column, rows_block)
        tap, of = column // channels, column % channels
        place = tl.where(tap < taps, of * taps + tap, taps * channels + of)
        tl.store(out_ptr + depthwise_place + place, total.to(dtype), mask=column < (taps + 1) * channels)
    else:
        column = (unit - norm_blocks - taps_blocks) * columns_block + tl.arange(0, columns_block)
        total = _sum_columns(bias1_partial_ptr, bias1_parts, hidden, column, rows_block)
        tl.store(out_ptr + bias1_place + column, total.to(dtype), mask=column < hidden)
