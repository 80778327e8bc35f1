"""Compares the depthwise convolution with torch's own conv2d, in float64 where numbers are compared."""

import copy

import pytest
import torch
from torch.nn.functional import conv2d

from convnext_dense.kernels import depthwise, depthwise_conv2d, depthwise_weight_grad, precision
from convnext_dense.layers import ConvNeXtBlock
from convnext_dense.layers.depthwise_conv import DepthwiseConv2d
from convnext_dense.models import ConvNeXt

# (N, C, H, W): stages of atto and tiny, batches of 1 to 16, one or many strips, one or several strips per call.
SHAPES = [
    (1, 96, 96, 96),
    (1, 192, 48, 48),
    (1, 768, 12, 12),
    (2, 48, 50, 84),
    (2, 192, 25, 42),
    (4, 320, 5, 5),
    (8, 40, 32, 32),
    (8, 160, 8, 8),
    (8, 320, 4, 4),
    (16, 40, 20, 20),
    (3, 33, 7, 50),  # channels not divisible by 8, and a last strip that is not full
    (1, 40, 64, 1),
]


def draw(shape, dtype=torch.float32, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images, channels, height, width = shape
    return torch.randn(images, height, width, channels, generator=generator).to(dtype).permute(0, 3, 1, 2)


def torch_weight_grad(x, grad, kernel_size=7):
    weight = x.new_zeros(x.shape[1], 1, kernel_size, kernel_size, requires_grad=True)
    return torch.autograd.grad(conv2d(x, weight, padding=kernel_size // 2, groups=x.shape[1]), weight, grad)[0]


def error(value, exact):
    return ((value.double() - exact).square().mean() / exact.square().mean()).sqrt().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weight_gradient_is_as_exact_as_torchs(shape, dtype):
    x, grad = draw(shape, dtype), draw(shape, dtype, seed=1)
    exact = torch_weight_grad(x.double(), grad.double())
    by_torch = max(error(torch_weight_grad(*pair), exact) for pair in ((x, grad), (x.contiguous(), grad.contiguous())))
    assert error(depthwise_weight_grad(x, grad, 7), exact) <= 1.25 * by_torch


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 9])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(13, 17), (1, 64), (1, 1)])
def test_weight_gradient_of_other_kernels_layouts_and_sizes(kernel_size, layout, size):
    x, grad = (draw((2, 16, *size), seed=seed).contiguous(memory_format=layout) for seed in (0, 1))
    exact = torch_weight_grad(x.double(), grad.double(), kernel_size)
    torch.testing.assert_close(depthwise_weight_grad(x, grad, kernel_size).double(), exact, rtol=1e-5, atol=1e-4)


def test_weight_gradient_of_no_images_is_zero():
    assert depthwise_weight_grad(*[torch.zeros(0, 8, 9, 9)] * 2, 7).equal(torch.zeros(8, 1, 7, 7))


def test_weight_gradient_of_the_same_input_is_the_same_to_the_last_bit():
    x, grad = draw((4, 40, 40, 40)), draw((4, 40, 40, 40), seed=1)
    assert depthwise_weight_grad(x, grad, 7).equal(depthwise_weight_grad(x, grad, 7))


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients_are_as_exact_as_torchs(dtype, emulated, monkeypatch):
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: not emulated)
    x, weight, bias = draw((2, 40, 30, 21), dtype), draw((40, 1, 7, 7), dtype, seed=1) / 7, torch.ones(40, dtype=dtype)
    inputs = [x, weight, bias]
    grad = draw((2, 40, 30, 21), dtype, seed=2)

    def differentiate(function, precision):
        leaves = [tensor.detach().to(precision).requires_grad_() for tensor in inputs]
        output = function(*leaves)
        return output, *torch.autograd.grad(output, leaves, grad.to(precision))

    def by_torch(x, weight, bias):
        return conv2d(x, weight, bias, padding=3, groups=40)

    exact = differentiate(by_torch, torch.float64)
    for ours, stock, target in zip(
        differentiate(depthwise_conv2d, dtype), differentiate(by_torch, dtype), exact, strict=True
    ):
        assert ours.dtype == dtype
        assert error(ours, target) <= 1.15 * error(stock, target)


def test_gradients_of_any_order_are_difference_quotients():
    """gradcheck needs float64, which the fast path leaves to torch, so this test calls the operator directly."""
    x, weight = draw((2, 3, 5, 4), torch.float64).requires_grad_(), draw((3, 1, 3, 3), torch.float64).requires_grad_()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(depthwise._DepthwiseConv2d.apply, (x, weight, bias))
    assert torch.autograd.gradgradcheck(depthwise._DepthwiseConv2d.apply, (x, weight, bias))


@pytest.mark.own_process
def test_operator_has_a_fake_implementation_and_an_autograd_formula():
    x, grad = (draw((2, 8, 9, 9), seed=seed).requires_grad_() for seed in (0, 1))
    torch.library.opcheck(depthwise_weight_grad, (x, grad, 7))


def uses_fast_path(x, weight):
    return "_DepthwiseConv2d" in type(depthwise_conv2d(x, weight).grad_fn).__name__


def test_everything_else_is_left_to_torch():
    x, weight = draw((2, 40, 9, 9)), draw((40, 1, 7, 7)).requires_grad_()
    assert uses_fast_path(x, weight)
    assert not uses_fast_path(x.double(), weight.double())
    assert not uses_fast_path(x.half(), weight.half())
    assert not uses_fast_path(x[:, :, :2, :2], weight)  # tiny: torch's own kernel is faster
    assert not uses_fast_path(x.requires_grad_(), weight.detach())
    assert depthwise_conv2d(x[:0], weight).shape == (0, 40, 9, 9)
    with torch.no_grad():
        assert depthwise_conv2d(x, weight).grad_fn is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_block_has_the_gradients_that_it_has_with_torchs_convolution(dtype):
    torch.manual_seed(0)
    block = ConvNeXtBlock(40, layer_scale_init_value=1.0)
    stock = copy.deepcopy(block)
    stock.dwconv = torch.nn.Conv2d(40, 40, 7, padding=3, groups=40)
    stock.load_state_dict(block.state_dict())
    x = draw((2, 40, 20, 23))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for module in (block, stock):
            module(x).float().square().mean().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for name, param in stock.named_parameters():
        grad = block.get_parameter(name).grad
        assert grad.dtype == param.grad.dtype
        assert error(grad, param.grad.double()) <= tolerance, name


def test_module_is_a_conv2d_with_conv2ds_parameters():
    module = DepthwiseConv2d(8, kernel_size=7)
    stock = torch.nn.Conv2d(8, 8, 7, padding=3, groups=8)
    assert isinstance(module, torch.nn.Conv2d)
    assert {name: value.shape for name, value in module.state_dict().items()} == {
        name: value.shape for name, value in stock.state_dict().items()
    }
    stock.load_state_dict(copy.deepcopy(module).state_dict())
    x = draw((2, 8, 16, 16))
    torch.testing.assert_close(module(x), stock(x))


def test_function_transforms_give_torchs_gradients_per_image():
    module = DepthwiseConv2d(16, kernel_size=7)
    params = {name: param.detach() for name, param in module.named_parameters()}
    x = draw((3, 16, 12, 12))

    def loss(params, image):
        return torch.func.functional_call(module, params, image[None]).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    for image, grad in zip(x, grads["weight"], strict=True):
        module.zero_grad()
        module(image[None]).square().sum().backward()
        torch.testing.assert_close(grad, module.weight.grad, rtol=1e-4, atol=1e-3)


def test_checkpointed_backbone_has_the_same_gradients():
    torch.manual_seed(0)
    model = ConvNeXt(dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)), layer_scale_init_value=1.0).train()
    grads = []
    for with_cp in (False, True):
        model.with_cp = with_cp
        model.zero_grad()
        sum(feature.square().mean() for feature in model(draw((2, 3, 96, 96)))).backward()
        grads.append([param.grad.clone() for param in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_compiled_gradients_are_the_eager_ones_without_recompiling_for_other_sizes():
    torch.manual_seed(0)
    module = DepthwiseConv2d(32, kernel_size=7)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in ((2, 32, 20, 24), (2, 32, 24, 20), (3, 32, 33, 41)):
        grads = []
        for function in (module, compiled):
            x = draw(size).requires_grad_()
            module.zero_grad()
            with torch.compiler.set_stance("default" if size == (2, 32, 20, 24) else "fail_on_recompile"):
                function(x).square().mean().backward()
            grads.append((x.grad, module.weight.grad, module.bias.grad))
        torch.testing.assert_close(*grads)
