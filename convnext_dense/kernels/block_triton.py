"""A ConvNeXt block and its gradients as one GPU operator that uses few kernels and reads and writes each map once.

Letters: N images, H height, W width, C channels, D width of the hidden layer, K side of the depthwise kernel,
R = N * H * W rows, E bytes of a 16-bit map of C channels.

cuBLAS computes the matrix products. Under autocast, with a float32 sum over blocks (2 E) and ignoring caches, a block
moves 29 E forward and 50 E backward, with 7 and 10 kernels; torch's operators in the official order are about 65. The
backward pass keeps the input rounded to 16 bits, the convolution's output and the hidden layer before GELU (6 E), or
only the first two if the hidden layer is rebuilt; torch keeps 13 E. GELU is exact: its error function is off by at most
1.5e-7 (Abramowitz and Stegun, 7.1.26), far below the last bit of 16-bit numbers; in float32 it is Triton's own. Sums
over rows have two stages and no atomics, so the same input gives the same bits.
"""

from typing import Any, List, NamedTuple  # noqa: UP035

import torch
from torch import Tensor
from torch.nn.functional import gelu

from convnext_dense.kernels import depthwise_triton, layer_norm_triton
from convnext_dense.kernels.block_kernels import (
    add_kernel,
    branch_grad_kernel,
    finish_kernel,
    gelu_grad_kernel,
    narrow_kernel,
)
from convnext_dense.kernels.choice import ceil_div, on_device_of

_TILE = 16, 128  # rows and channels of a program
_PROGRAMS = 528  # for a sum over rows, one partial sum each: four on each of 132 multiprocessors
_COLUMNS = 32  # of a program that adds up partial sums
_PARAMETERS = 1024  # of a program that only copies or sums parameters


class Parameters(NamedTuple):
    """Parameters of a ``ConvNeXtBlock``, all of the same precision; ``gamma`` may be None."""

    weight: Tensor
    bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    gamma: Tensor | None

    @classmethod
    def of(cls, block: Any) -> "Parameters":
        """Collect the parameters of a ``ConvNeXtBlock``."""
        parts = (block.dwconv, block.norm, block.pwconv1, block.pwconv2)
        return cls(*(param for part in parts for param in (part.weight, part.bias)), block.gamma)  # type: ignore[call-arg]


def _narrow(parameters: Parameters, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the linear layers' parameters in ``dtype`` (see ``_split_narrow``) and the ``(K * K, C)`` taps."""
    weight, _, _, _, weight1, bias1, weight2, bias2, gamma = parameters
    hidden, channels = weight1.shape
    taps = weight.shape[-1] ** 2
    out = weight1.new_empty((2 * channels + 1) * hidden + channels, dtype=dtype)
    by_tap = weight1.new_empty(taps, channels, dtype=torch.float32)
    grid = (ceil_div(channels * max(hidden, taps), _PARAMETERS),)
    narrow_kernel[grid](
        weight, weight1, bias1, weight2, bias2, weight1 if gamma is None else gamma, out, by_tap,
        channels, hidden, taps, gamma is not None, _PARAMETERS,
    )  # fmt: skip
    return out, by_tap


def _split_narrow(narrow: Tensor, hidden: int, channels: int) -> tuple[Tensor, ...]:
    size = hidden * channels
    weight1, weight2, bias1, bias2 = narrow.split((size, size, hidden, channels))
    return weight1.view(hidden, channels), weight2.view(channels, hidden), bias1, bias2


def _forward(
    x: Tensor, scale: Tensor | None, parameters: Parameters, eps: float, dtype: torch.dtype, keeps: bool
) -> tuple[Tensor, ...]:
    """Return the block's output and what its gradients need (see ``block``); ``x`` is contiguous."""
    channels, rows = x.shape[-1], x.numel() // x.shape[-1]
    narrow, taps = _narrow(parameters, dtype)
    convolved = torch.empty_like(x, dtype=dtype)
    copy = torch.empty_like(x, dtype=dtype) if keeps and x.dtype != dtype else None
    depthwise_triton.convolve(x, taps, parameters.bias, convolved, copy=copy)
    out, mean, rstd = layer_norm_triton.normalise(convolved, parameters.norm_weight, parameters.norm_bias, eps, dtype)
    weight1, weight2, bias1, bias2 = _split_narrow(narrow, len(parameters.weight1), channels)
    hidden = torch.addmm(bias1, out.view(rows, channels), weight1.T)
    branch = torch.addmm(bias2, gelu(hidden), weight2.T)
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, parameters.norm_weight.dtype))
    grid = (ceil_div(rows, _TILE[0]), ceil_div(channels, _TILE[1]))
    add_kernel[grid](
        x, branch, branch if scale is None else scale, out, rows, rows // len(x), channels, scale is not None, *_TILE
    )
    return out, x if copy is None else copy, convolved, mean, rstd, narrow, taps, hidden


def _partial_sums(x: Tensor, width: int, number_of_taps: int) -> tuple[list[int], list[Tensor]]:
    """Count and allocate the partial sums for the gradients of norm, taps, first bias and second bias."""
    rows, channels = x.numel() // x.shape[-1], x.shape[-1]
    tiles = ceil_div(rows, _TILE[0])
    shapes = [
        (layer_norm_triton.number_of_parts(rows, channels), 2, channels),
        (depthwise_triton.number_of_parts(*x.shape), number_of_taps + 1, channels),
        (max(1, min(tiles, _PROGRAMS // ceil_div(width, _TILE[1]))), 1, width),
        (max(1, min(tiles, _PROGRAMS // ceil_div(channels, _TILE[1]))), 1, channels),
    ]
    partial = x.new_empty(sum(a * b * c for a, b, c in shapes), dtype=torch.float32)
    parts = partial.split([a * b * c for a, b, c in shapes])
    return [shape[0] for shape in shapes], [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _backward(
    grad: Tensor,
    scale: Tensor | None,
    parameters: Parameters,
    eps: float,
    x_dtype: torch.dtype,
    x: Tensor,
    convolved: Tensor,
    mean: Tensor,
    rstd: Tensor,
    narrow: Tensor | None,
    taps: Tensor | None,
    hidden: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the input and of ``Parameters``; recompute the last three arguments that are None."""
    norm = parameters.norm_weight, parameters.norm_bias
    dtype, wide, channels, rows = convolved.dtype, parameters.weight1.dtype, len(parameters.bias), len(mean)
    if narrow is None or taps is None:
        narrow, taps = _narrow(parameters, dtype)
    width, number_of_taps = len(parameters.weight1), len(taps)
    weight1, weight2, bias1, _ = _split_narrow(narrow, width, channels)
    if hidden is None:
        normalised, _, _ = layer_norm_triton.normalise(convolved, *norm, eps, dtype)
        hidden = torch.addmm(bias1, normalised.view(rows, channels), weight1.T)

    counts, (of_norm, of_taps, of_bias1, of_bias2) = _partial_sums(x, width, number_of_taps)
    channel_blocks, hidden_blocks = ceil_div(channels, _TILE[1]), ceil_div(width, _TILE[1])
    branch_grad = grad.new_empty(rows, channels, dtype=dtype)
    parts = counts[3]
    branch_grad_kernel[(parts, channel_blocks)](
        grad, of_bias2 if scale is None else scale, branch_grad, of_bias2, rows, rows // len(x), parts,
        channels, scale is not None, *_TILE,
    )  # fmt: skip
    hidden_grad, out = torch.mm(branch_grad, weight2), torch.empty_like(hidden)
    parts = counts[2]
    gelu_grad_kernel[(parts, hidden_blocks)](
        hidden_grad, hidden, out, hidden_grad, of_bias1, rows, parts, width, dtype == torch.float32, *_TILE
    )
    weight2_grad = _product(branch_grad.T, out, wide)
    convolved_grad, norms_output = layer_norm_triton.differentiate(
        torch.mm(hidden_grad, weight1), convolved, norm[0], mean, rstd, of_norm, norm[1]
    )
    assert norms_output is not None
    weight1_grad = _product(hidden_grad.T, norms_output.view(rows, channels), wide)
    depthwise_triton.weight_grad(x, convolved_grad, parameters.weight.shape[-1], of_taps)
    x_grad = torch.empty_like(x, dtype=x_dtype)
    depthwise_triton.convolve(convolved_grad, taps, None, x_grad, flipped=True, added=grad)

    gamma = parameters.gamma
    sizes = [channels, channels, number_of_taps * channels, channels, width, channels, channels]
    out = grad.new_empty(sum(sizes), dtype=wide)
    columns = [2 * channels, (number_of_taps + 1) * channels, width]
    finish_kernel[(channels + sum(ceil_div(count, _COLUMNS) for count in columns),)](
        of_norm, of_taps, of_bias1, of_bias2, parameters.weight2, weight2_grad, parameters.bias2,
        out if gamma is None else gamma, out, *counts,
        channels, width, number_of_taps, gamma is not None, 1 << (width - 1).bit_length(), 64, _COLUMNS,
    )  # fmt: skip
    norm_weight, norm_bias, weight, bias, bias1, bias2, gamma_grad = out.split(sizes)
    weight = weight.view(parameters.weight.shape)
    grads = x_grad, weight, bias, norm_weight, norm_bias, weight1_grad, bias1, weight2_grad, bias2
    return *grads, None if gamma is None else gamma_grad


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``a @ b`` in a wider precision, on a GPU without rounding to the narrower one first."""
    if a.is_cuda and a.dtype != dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return torch.mm(a, b).to(dtype)


@torch.library.custom_op("convnext_dense::block_triton", mutates_args=())
def block(  # noqa: D417 - the parameters of the block are those of `Parameters`
    x: Tensor,
    scale: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    rebuilds: bool,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    gamma: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return ``x + scale * branch(x)``.

    Args:
        x: ``(N, H, W, C)``, contiguous, in float32, bfloat16 or float16.
        scale: ``(N,)``, the factor that stochastic depth draws for each image, or None.
        eps: Added to the variance by the norm.
        dtype: Precision of the products and of the maps between them.
        rebuilds: Whether the backward pass recomputes the hidden layer and the parameters in ``dtype`` instead of
            keeping them.
        weight: ``(C, 1, K, K)``; this and the others as in ``Parameters``, all of the same precision.

    Returns:
        The sum, ``(N, H, W, C)`` in the wider precision of ``x`` and the parameters, and what the gradients need: ``x``
        in ``dtype`` (empty if it already has it), the convolution's output, the mean and inverse deviation of its rows,
        the parameters in ``dtype``, the ``(K * K, C)`` taps and the ``(R, D)`` hidden layer. The last three are empty
        if they are rebuilt.
    """
    parameters = Parameters(weight, bias, norm_weight, norm_bias, weight1, bias1, weight2, bias2, gamma)
    out, copy, *kept = _forward(x, scale, parameters, eps, dtype, keeps=True)
    if rebuilds:
        kept[-3:] = [x.new_empty(0) for _ in range(3)]
    return out, x.new_empty(0) if copy is x else copy, *kept  # type: ignore[return-value]


@block.register_fake
def _(x, scale, eps, dtype, rebuilds, *parameters):
    given = Parameters(*parameters)
    images, height, width, _ = x.shape
    rows = images * height * width  # not `numel` of a part of the shape, which would turn symbolic sizes into constants
    hidden, channels = given.weight1.shape
    narrow, taps = (x.dtype, x.dtype) if rebuilds else (dtype, torch.float32)
    statistics = x.new_empty(rows, dtype=torch.float32)
    map_like_x = torch.empty_like(x, dtype=dtype)
    return (
        torch.empty_like(x, dtype=torch.promote_types(x.dtype, given.norm_weight.dtype)),
        x.new_empty(0) if x.dtype == dtype else map_like_x,
        torch.empty_like(map_like_x),
        statistics,
        torch.empty_like(statistics),
        x.new_empty(0 if rebuilds else (2 * channels + 1) * hidden + channels, dtype=narrow),
        x.new_empty(*((0,) if rebuilds else (given.weight.shape[-1] ** 2, channels)), dtype=taps),
        x.new_empty(*((0,) if rebuilds else (rows, hidden)), dtype=narrow),
    )


@torch.library.custom_op("convnext_dense::block_backward_triton", mutates_args=())
def block_backward(
    grad: Tensor,
    scale: Tensor | None,
    eps: float,
    x_dtype: torch.dtype,
    x: Tensor,
    convolved: Tensor,
    mean: Tensor,
    rstd: Tensor,
    narrow: Tensor,
    taps: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    gamma: Tensor | None,
) -> List[Tensor]:  # noqa: UP006 - torch 2.6 knows no list[Tensor]
    """Return the gradients of ``x``, in ``x_dtype``, and of the parameters, from inputs and outputs of ``block``."""
    parameters = Parameters(weight, bias, norm_weight, norm_bias, weight1, bias1, weight2, bias2, gamma)
    rebuilt = (narrow, taps, hidden) if hidden.numel() else (None, None, None)
    kept = x, convolved, mean, rstd, *rebuilt
    grads = _backward(grad.contiguous(), scale, parameters, eps, x_dtype, *kept)
    return [grad.clone() if grad._is_view() else grad for grad in grads if grad is not None]


@block_backward.register_fake
def _(grad, scale, eps, x_dtype, x, convolved, mean, rstd, narrow, taps, hidden, *parameters):
    return [torch.empty_like(convolved, dtype=x_dtype)] + [
        torch.empty_like(parameter, memory_format=torch.contiguous_format)
        for parameter in parameters
        if parameter is not None
    ]


def _save(ctx, inputs, output) -> None:
    x, scale, eps, dtype, _, *parameters = inputs
    _, copy, *kept = output
    ctx.mark_non_differentiable(copy, *kept)
    ctx.save_for_backward(scale, x if x.dtype == dtype else copy, *kept, *parameters)
    ctx.eps, ctx.x_dtype, ctx.has_gamma = eps, x.dtype, parameters[-1] is not None


def _gradients(ctx, grad: Tensor, *of_kept):
    scale, *tensors = ctx.saved_tensors
    x_grad, *grads = block_backward(grad, scale, ctx.eps, ctx.x_dtype, *tensors)
    return x_grad, None, None, None, None, *grads, *(() if ctx.has_gamma else (None,))


block.register_autograd(_gradients, setup_context=_save)


class BlockTriton(torch.autograd.Function):
    """``block`` without the dispatcher, whose overhead would slow down eager steps; same arguments."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        scale: Tensor | None,
        eps: float,
        dtype: torch.dtype,
        rebuilds: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        """Run the block; keep 6 E for the backward pass, or 2 E and rebuild the rest."""
        given = Parameters(*parameters)  # type: ignore[arg-type]
        out, *kept = _forward(x, scale, given, eps, dtype, keeps=True)
        ctx.save_for_backward(scale, *parameters, *kept[:-3], *((None,) * 3 if rebuilds else kept[-3:]))
        ctx.eps, ctx.x_dtype = eps, x.dtype
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input and the parameters."""
        scale, *tensors = ctx.saved_tensors
        count = len(Parameters._fields)
        parameters, kept = Parameters(*tensors[:count]), tensors[count:]
        x_grad, *grads = _backward(grad.contiguous(), scale, parameters, ctx.eps, ctx.x_dtype, *kept)
        return x_grad, None, None, None, None, *grads


def run_block(
    x_nchw: Tensor, scale: Tensor | None, parameters: Parameters, eps: float, dtype: torch.dtype, rebuilds: bool
) -> Tensor:
    """Run ``block`` on ``(N, C, H, W)`` in the cheapest way; the result is in channels-last memory."""
    x = x_nchw.permute(0, 2, 3, 1).contiguous()
    if torch.compiler.is_compiling():
        return block(x, scale, eps, dtype, rebuilds, *parameters)[0].permute(0, 3, 1, 2)
    with on_device_of(x):
        if torch.is_grad_enabled() and (x.requires_grad or any(p is not None and p.requires_grad for p in parameters)):
            out = BlockTriton.apply(x, scale, eps, dtype, rebuilds, *parameters)
        else:
            out = _forward(x, scale, parameters, eps, dtype, keeps=False)[0]
    return out.permute(0, 3, 1, 2)
