"""Depthwise convolution with stride 1 and a fast gradient of the weights on a CPU.

Letters: N images, C channels, H height, W width, K kernel height and width (odd).

oneDNN has no depthwise kernel for the gradient of the weights that torch can reach: a dense one runs instead, 10 to 50
times slower than the forward pass. But that gradient is itself a depthwise convolution, of the input with the gradient
of the output as kernels, and for this there is a fast kernel:

    dw[c, i, j] = sum over n, y, x of padded_input[n, c, y + i, x + j] * grad[n, c, y, x]

It is computed in strips of rows, and the results are added up. Small images share one call, each with its own
channels. Strips bound the length of the sums, so the rounding error is at most a quarter larger than that of torch's
own kernel.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from convnext_dense.kernels.choice import needs_torchs_operators, on_device_of, runs_on_triton
from convnext_dense.kernels.precision import emulates_products, to_autocast
from convnext_dense.kernels.processor import capabilities

# Sums need not have fewer products than this to be exact enough. A strip of one row would mostly read its halo.
_SHORT_SUM = 32
# Approximate limit of a strip's input, which stays in cache while each of its rows is read K times.
_STRIP_BYTES = 1_000_000
# Strips share one call as long as their input is smaller than this per thread; a single strip is not copied.
_CALL_BYTES = 500_000
# Below this many elements torch's own kernel takes less time than the calls here.
_MIN_ELEMENTS = 2048


def depthwise_conv2d(x_nchw: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``conv2d(x, weight, bias, padding=K // 2, groups=C)`` in the fastest way.

    Args:
        x_nchw: ``(N, C, H, W)`` in any memory format and on any device.
        weight: ``(C, 1, K, K)``.
        bias: ``(C,)`` or None.

    Returns:
        ``(N, C, H, W)``.
    """
    if x_nchw.dim() == 4 and runs_on_triton("depthwise", x_nchw):
        from convnext_dense.kernels.depthwise_triton import DepthwiseTriton, depthwise

        cast = to_autocast(x_nchw.device.type, x_nchw, weight, bias)
        if torch.compiler.is_compiling():
            return depthwise(*cast, False)
        with on_device_of(x_nchw):
            return DepthwiseTriton.apply(*cast, False)
    if not _has_fast_path(x_nchw):
        return conv2d(x_nchw, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    if torch.is_autocast_enabled("cpu"):
        cast = to_autocast("cpu", x_nchw, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return depthwise_conv2d(*cast)
    if torch.is_grad_enabled() and weight.requires_grad:
        return _DepthwiseConv2d.apply(x_nchw, weight, bias)
    return _convolve(x_nchw, weight, bias)


def _has_fast_path(x_nchw: Tensor) -> bool:
    """Return whether the fast path is correct and never slower: on a CPU, in float32 or bfloat16, not tiny or empty."""
    return (
        x_nchw.device.type == "cpu"
        and x_nchw.dim() == 4
        and x_nchw.dtype in (torch.float32, torch.bfloat16)
        and (torch.compiler.is_compiling() or x_nchw.numel() >= _MIN_ELEMENTS)  # one compiled graph for all sizes
        and not needs_torchs_operators()
    )


class _DepthwiseConv2d(torch.autograd.Function):
    """The convolution and its three gradients, which are differentiable themselves."""

    @staticmethod
    def forward(x_nchw: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(x_nchw, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x_nchw, weight, _ = inputs
        ctx.save_for_backward(x_nchw, weight)

    @staticmethod
    def backward(ctx, grad_nchw: Tensor) -> tuple[Tensor | None, ...]:
        x_nchw, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        # Dispatching an operator takes 0.25 ms, so it is left to compilers and gradients of gradients.
        as_operator = torch.compiler.is_compiling() or torch.is_grad_enabled()
        weight_grad = depthwise_weight_grad if as_operator else _weight_grad
        return (
            _convolve(grad_nchw, weight.flip(2, 3)) if wants_x else None,
            weight_grad(x_nchw, grad_nchw, weight.shape[-1]) if wants_weight else None,
            grad_nchw.sum((0, 2, 3)) if wants_bias else None,
        )


@torch.library.custom_op("convnext_dense::depthwise_weight_grad", mutates_args=())
def depthwise_weight_grad(x_nchw: Tensor, grad_nchw: Tensor, kernel_size: int) -> Tensor:
    """Compute the gradient of the weights of ``conv2d(x, weight, padding=K // 2, groups=C)``, in float32 at least.

    Args:
        x_nchw: The input, ``(N, C, H, W)``.
        grad_nchw: Gradient of the output, ``(N, C, H, W)``.
        kernel_size: K, odd.

    Returns:
        ``(C, 1, K, K)`` in the input's precision.
    """
    return _weight_grad(x_nchw, grad_nchw, kernel_size)


def _weight_grad(x_nchw: Tensor, grad_nchw: Tensor, kernel_size: int) -> Tensor:
    if x_nchw.numel() == 0:
        return x_nchw.new_zeros(x_nchw.shape[1], 1, kernel_size, kernel_size)
    dtype = torch.promote_types(x_nchw.dtype, torch.float32)
    x_nhwc, grad_nhwc = (
        maps.to(dtype).contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1) for maps in (x_nchw, grad_nchw)
    )
    images, height, width, channels = x_nhwc.shape
    halo = kernel_size // 2
    row_bytes = width * channels * dtype.itemsize
    rows = min(images * height // _number_of_partial_sums(), max(2 * halo, _STRIP_BYTES // row_bytes - 2 * halo))
    rows = min(height, max(2 if width < _SHORT_SUM else 1, _SHORT_SUM // width, rows))
    strips = -(-height // rows)
    rows = -(-height // strips)

    together = max(1, _CALL_BYTES * torch.get_num_threads() // ((rows + 2 * halo) * row_bytes))
    image_step, strip_step = (together // strips, strips) if together > strips else (1, together)
    partials = []  # each (1, images * strips * C, K, K)
    for top in range(0, height, strip_step * rows):
        bottom = min(height, top + strip_step * rows)
        strip_rows = min(rows, bottom - top)
        missing = -(bottom - top) % strip_rows
        above, below = max(0, halo - top), max(0, bottom + halo - height)
        for image in range(0, images, image_step):
            part = slice(image, image + image_step)
            x_part = _pad_rows(x_nhwc[part, top - halo + above : bottom + halo - below], above, below + missing)
            grad_part = _pad_rows(grad_nhwc[part, top:bottom], 0, missing)
            inputs = _strips_as_channels(x_part.unfold(1, strip_rows + 2 * halo, strip_rows))
            kernels = _strips_as_channels(grad_part.unfold(1, strip_rows, strip_rows))
            partials.append(conv2d(inputs, kernels.transpose(0, 1), padding=(0, halo), groups=inputs.shape[1]))
    total = torch.cat(partials, 1).permute(0, 2, 3, 1).unflatten(3, (-1, channels)).sum(3)
    return total.permute(3, 0, 1, 2).to(x_nchw.dtype).contiguous()


def _pad_rows(x_nhwc: Tensor, above: int, below: int) -> Tensor:
    return pad(x_nhwc, (0, 0, 0, 0, above, below)) if above or below else x_nhwc


def _strips_as_channels(strips: Tensor) -> Tensor:
    """Turn ``(N, strips, W, C, rows)`` into channels-last ``(1, N * strips * C, rows, W)``; one strip is a view."""
    return strips.permute(4, 2, 0, 1, 3).flatten(2)[None].permute(0, 3, 1, 2)


@cache
def _number_of_partial_sums() -> int:
    """Return how many partial sums make the error against float64 about that of torch's own kernel or smaller.

    torch's kernel adds up 16 partial sums or slightly more with AVX-512, and one per image with AVX2 (measured in
    float32 from 4 x 4 to 200 x 336 positions, batches of 1 to 16).
    """
    can = capabilities()
    return 2 if can["architecture"] == "x86_64" and not can.get("avx512_f", False) else 16


@depthwise_weight_grad.register_fake
def _(x_nchw: Tensor, grad_nchw: Tensor, kernel_size: int) -> Tensor:
    return x_nchw.new_empty(x_nchw.shape[1], 1, kernel_size, kernel_size)


def _save_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _differentiate_again(ctx, weight_like: Tensor) -> tuple[Tensor, Tensor, None]:
    """Differentiate the weight gradient, which is linear in the input and in the output's gradient."""
    x_nchw, grad_nchw = ctx.saved_tensors
    return _convolve(grad_nchw, weight_like.flip(2, 3)), _convolve(x_nchw, weight_like), None


depthwise_weight_grad.register_autograd(_differentiate_again, setup_context=_save_inputs)


def _convolve(x_nchw: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dtype = x_nchw.dtype
    if emulates_products(x_nchw):
        x_nchw, weight, bias = x_nchw.float(), weight.float(), None if bias is None else bias.float()
    x_nchw = x_nchw.contiguous(memory_format=torch.channels_last)
    return conv2d(x_nchw, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight)).to(dtype)
