"""Residual sum for GPUs with stochastic depth in it: shortcut + scale[n] * branch.

Letters: N images, H height, W width, C channels, E bytes of a 16-bit map.

With a float32 shortcut and a 16-bit branch: 5 E forward (7 with the scale on its own), 3 E backward (5), which spares
the scaled branch, its gradient and the cast between them. The layer scale is not here: folded into the linear layer
before (``ScaledLinear``), it moves no map at all. Not measured on a GPU.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS_BLOCK = 8
_CHANNELS_BLOCK = 256


@triton.jit(do_not_specialize=["rows", "positions"])
def _forward_kernel(
    shortcut_ptr, branch_ptr, scale_ptr, out_ptr, rows, positions, channels,
    has_scale: tl.constexpr, rows_block: tl.constexpr, channels_block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows_block + tl.arange(0, rows_block)
    c = tl.program_id(1) * channels_block + tl.arange(0, channels_block)
    place = row[:, None] * channels + c[None, :]
    mask = (row < rows)[:, None] & (c < channels)[None, :]
    branch = tl.load(branch_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if has_scale:
        branch *= tl.load(scale_ptr + row // positions, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    out = tl.load(shortcut_ptr + place, mask=mask, other=0.0).to(tl.float32) + branch
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "positions"])
def _backward_kernel(
    grad_ptr, scale_ptr, branch_grad_ptr, rows, positions, channels,
    has_scale: tl.constexpr, rows_block: tl.constexpr, channels_block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows_block + tl.arange(0, rows_block)
    c = tl.program_id(1) * channels_block + tl.arange(0, channels_block)
    place = row[:, None] * channels + c[None, :]
    mask = (row < rows)[:, None] & (c < channels)[None, :]
    grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if has_scale:
        grad *= tl.load(scale_ptr + row // positions, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    tl.store(branch_grad_ptr + place, grad.to(branch_grad_ptr.dtype.element_ty), mask=mask)


def _launch(kernel, tensors: list[Tensor], scale: Tensor | None, out: Tensor) -> Tensor:
    images, *_, channels = out.shape
    rows = out.numel() // channels
    if rows:
        grid = (triton.cdiv(rows, _ROWS_BLOCK), triton.cdiv(channels, _CHANNELS_BLOCK))
        kernel[grid](
            *(tensor.contiguous() for tensor in tensors), out if scale is None else scale, out,
            rows, rows // images, channels, has_scale=scale is not None,
            rows_block=_ROWS_BLOCK, channels_block=_CHANNELS_BLOCK,
        )  # fmt: skip
    return out


def _add(shortcut: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    out = torch.empty_like(shortcut, memory_format=torch.contiguous_format)
    return _launch(_forward_kernel, [shortcut, branch], scale, out)


def _differentiate(grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    out = torch.empty_like(grad, dtype=dtype, memory_format=torch.contiguous_format)
    return _launch(_backward_kernel, [grad], scale, out)


@torch.library.custom_op("convnext_dense::add_branch_triton", mutates_args=())
def add_branch(shortcut: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    """``shortcut + scale * branch``.

    Args:
        shortcut: ``(N, H, W, C)`` in float32, bfloat16 or float16.
        branch: ``(N, H, W, C)`` in any of these.
        scale: ``(N,)``, what stochastic depth draws per image, or None. Has no gradient.

    Returns:
        ``(N, H, W, C)`` in the shortcut's precision.
    """
    return _add(shortcut, branch, scale)


@torch.library.custom_op("convnext_dense::add_branch_backward_triton", mutates_args=())
def add_branch_backward(grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Gradient of the branch, of type ``dtype``, from that of the sum."""
    return _differentiate(grad, scale, dtype)


@add_branch.register_fake
def _(shortcut: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
    return torch.empty_like(shortcut, memory_format=torch.contiguous_format)


@add_branch_backward.register_fake
def _(grad: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(grad, dtype=dtype, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    _, branch, scale = inputs
    ctx.save_for_backward(scale)
    ctx.dtype = branch.dtype


def _gradients(ctx, grad: Tensor, *, differentiate=add_branch_backward):
    return grad, differentiate(grad, *ctx.saved_tensors, ctx.dtype), None


add_branch.register_autograd(_gradients, setup_context=_save)


class AddBranchTriton(torch.autograd.Function):
    """``add_branch`` without the dispatcher, on whose way an eager step would wait; arguments as there."""

    forward = staticmethod(_add)
    setup_context = staticmethod(_save)
    backward = staticmethod(  # type: ignore[assignment]
        torch.autograd.function.once_differentiable(functools.partial(_gradients, differentiate=_differentiate))
    )
