"""Compares LayerNorm for GPUs with torch in float64; without a GPU it runs in Triton's interpreter."""

import pytest
import torch

pytest.importorskip("triton")
from convnext_dense.kernels import layer_norm_triton
from convnext_dense.layers import LayerNorm2d

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-6


def draw(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def results(function, tensors, dtypes):
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor, dtype in zip(tensors, dtypes, strict=True)]
    output = function(*leaves)
    grad = draw(*output.shape, seed=9).bfloat16().to(output.dtype)
    return output, *torch.autograd.grad(output, leaves, grad)


def check_as_exact(ours, stock, tensors, dtypes):
    """Errors against float64 are those of torch's operators in the same precision, plus the last bit of the result."""
    exact = results(stock, tensors, [torch.float64] * len(tensors))
    for mine, theirs, true in zip(results(ours, tensors, dtypes), results(stock, tensors, dtypes), exact, strict=True):
        assert mine.shape == true.shape
        # the interpreter rounds down where torch and GPUs round to nearest
        allowed = 1.25 * (theirs.double() - true).norm() + torch.finfo(mine.dtype).eps * true.norm()
        assert (mine.double() - true).norm() <= allowed


# More rows than a tile; channels that are neither divisible by 8 nor a power of two; one row of one channel.
@pytest.mark.parametrize("size", [(2, 3, 30, 96), (1, 5, 7, 33), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_its_gradients_are_as_exact_as_torchs(size, dtype, monkeypatch):
    monkeypatch.setattr(layer_norm_triton, "_TILES_PER_PROGRAM", 1)
    channels = size[-1]
    tensors = [2 + draw(*size).to(dtype), draw(channels, seed=1), draw(channels, seed=2)]

    def ours(x, weight, bias):
        return layer_norm_triton.LayerNormTriton.apply(x, weight, bias, EPS, dtype)

    def stock(x, weight, bias):
        return torch.nn.functional.layer_norm(x.to(weight.dtype), (channels,), weight, bias, EPS).to(x.dtype)

    check_as_exact(ours, stock, tensors, [dtype, torch.float32, torch.float32])


def test_same_input_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(layer_norm_triton, "_TILES_PER_PROGRAM", 1)
    x, weight = draw(70, 96).requires_grad_(), draw(96, seed=2).requires_grad_()
    out = layer_norm_triton.LayerNormTriton.apply(x, weight, weight, EPS, x.dtype)
    first, second = (torch.autograd.grad(out.sum(), (x, weight), retain_graph=True) for _ in range(2))
    assert all(mine.equal(other) for mine, other in zip(first, second, strict=True))


def test_norm_of_a_map_widens_under_autocast_as_torchs_does_on_a_gpu(on_triton):
    norm, x = LayerNorm2d(8).to(DEVICE), draw(2, 8, 3, 4, dtype=torch.bfloat16)
    with torch.autocast(DEVICE, torch.bfloat16):
        output = norm(x)
    exact = torch.nn.functional.layer_norm(x.double().permute(0, 2, 3, 1), (8,), eps=EPS).permute(0, 3, 1, 2)
    assert output.dtype == (torch.float32 if DEVICE == "cuda" else torch.bfloat16)
    torch.testing.assert_close(output.double(), exact, rtol=1e-5 if DEVICE == "cuda" else 1e-2, atol=1e-2)


def test_no_rows_give_no_output_and_zero_gradients():
    x, weight = draw(0, 2, 3, 8).requires_grad_(), draw(8).requires_grad_()
    out = layer_norm_triton.LayerNormTriton.apply(x, weight, weight, EPS, torch.float32)
    out.sum().backward()
    assert out.shape == x.shape
    assert not weight.grad.any()
