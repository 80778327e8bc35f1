"""Compares the GPU kernels with torch's conv2d in float64; without a GPU they run in Triton's interpreter."""

import os

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d

pytest.importorskip("triton")
from convnext_dense.kernels import choice, depthwise_triton
from convnext_dense.layers.depthwise_conv import DepthwiseConv2d

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def results(function, tensors, grad, dtype):
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    output = function(*leaves)
    return output, *torch.autograd.grad(output, leaves, grad.to(dtype))


# Channels not divisible by 8, a second block of channels and of columns; a single position; a second part of rows.
@pytest.mark.parametrize(
    ("size", "kernel_size"), [((1, 33, 2, 18), 3), ((1, 3, 1, 1), 7), ((1, 8, 17, 2), 3), ((2, 8, 3, 5), 7)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients_are_as_exact_as_torchs(size, kernel_size, dtype):
    channels = size[1]
    tensors = [
        draw(*size, dtype=dtype),
        draw(channels, 1, kernel_size, kernel_size, dtype=dtype),
        draw(channels, dtype=dtype),
    ]
    grad = draw(*size, seed=1, dtype=dtype)

    def stock(x, weight, bias):
        return conv2d(x, weight, bias, padding=kernel_size // 2, groups=channels)

    exact = results(stock, tensors, grad, torch.float64)
    ours = results(depthwise_triton.DepthwiseTriton.apply, tensors, grad, dtype)
    theirs = results(stock, tensors, grad, dtype)
    unit = torch.finfo(dtype).eps  # the interpreter rounds down where torch and GPUs round to nearest
    for mine, torchs, true in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == dtype
        error = (mine.double() - true).norm()
        assert error <= 1.25 * (torchs.double() - true).norm() + unit * true.norm()


def test_empty_batch_gives_zero_gradients():
    weight_grad, bias_grad = depthwise_triton.depthwise_weight_grad(*[draw(0, 8, 4, 4)] * 2, draw(8, 1, 7, 7))
    assert weight_grad.shape == (8, 1, 7, 7)
    assert not weight_grad.any()
    assert not bias_grad.any()
    assert depthwise_triton.depthwise(draw(0, 8, 4, 4), draw(8, 1, 7, 7), None, False).shape == (0, 8, 4, 4)


@pytest.mark.own_process
def test_operators_are_right_for_compilers():
    """Schemas, fake implementations including symbolic sizes, and gradients through ahead-of-time tracing."""
    x, weight = draw(1, 8, 2, 3).requires_grad_(), draw(8, 1, 3, 3, seed=1).requires_grad_()
    torch.library.opcheck(depthwise_triton.depthwise, (x, weight, draw(8, seed=2).requires_grad_()))
    torch.library.opcheck(depthwise_triton.depthwise_weight_grad, (x.detach(), x.detach(), weight.detach()))


def test_gradients_with_flipped_weights_are_those_of_the_transposed_convolution():
    x, weight, grad = (
        draw(1, 5, 4, 3).requires_grad_(),
        draw(5, 1, 3, 3, seed=1).requires_grad_(),
        draw(1, 5, 4, 3, seed=2),
    )
    exact = torch.autograd.grad(conv_transpose2d(x, weight, padding=1, groups=5), (x, weight), grad)
    ours = torch.autograd.grad(depthwise_triton.depthwise(x, weight, None, True), (x, weight), grad)
    torch.testing.assert_close(ours, exact)


def test_same_input_gives_the_same_bits():
    x, grad, weight = draw(1, 8, 17, 3), draw(1, 8, 17, 3, seed=1), draw(8, 1, 3, 3)
    first, second = (depthwise_triton.depthwise_weight_grad(x, grad, weight)[0] for _ in range(2))
    assert first.equal(second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_run_compiled_for_the_gpu_on_other_sizes_without_compiling_again():
    assert "TRITON_INTERPRET" not in os.environ
    kernel = depthwise_triton._convolve_kernel
    depthwise_triton.depthwise(draw(1, 32, 20, 24), draw(32, 1, 7, 7), None, False)
    compiled = sum(len(cache[0]) for cache in kernel.device_caches.values())
    for size in ((1, 32, 33, 17), (2, 32, 48, 64), (1, 32, 1, 1)):
        depthwise_triton.depthwise(draw(*size), draw(32, 1, 7, 7), None, False)
    assert sum(len(cache[0]) for cache in kernel.device_caches.values()) == compiled


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_module_takes_the_kernels_on_a_gpu_when_they_are_turned_on():
    module = DepthwiseConv2d(32, kernel_size=7).cuda()
    with torch.autocast("cuda", torch.bfloat16), choice.forced("triton"):
        output = module(draw(2, 32, 20, 24))
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    assert "DepthwiseTriton" in type(output.grad_fn).__name__
    assert module.weight.grad.dtype == torch.float32
