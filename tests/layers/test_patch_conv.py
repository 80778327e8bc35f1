"""Compares the linear layer on patches, eager and compiled, with torch's convolution."""

import pytest
import torch
from torch import nn

from convnext_dense.layers import PatchConv2d

SIZES = [(2, 6, 8, 12), (1, 6, 7, 5), (0, 6, 4, 4)]


def results_of(function, layer, size, memory_format):
    """Return the output and the gradients of the image, the weight and the bias."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=layer.weight.dtype)
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    layer.zero_grad()
    output = function(x)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum().backward()
    return output, x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("compiled", [False, True])
def test_layer_has_the_convolutions_output_and_gradients(size, memory_format, compiled):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = PatchConv2d(6, 10, patch_size=2).double()
    function = torch.compile(layer, backend="eager", dynamic=True, fullgraph=True) if compiled else layer
    expected = results_of(
        lambda x: nn.functional.conv2d(x, layer.weight, layer.bias, stride=2), layer, size, memory_format
    )
    torch.testing.assert_close(results_of(function, layer, size, memory_format), expected)


def test_training_and_forward_alone_give_the_same_map():
    torch.manual_seed(0)
    layer = PatchConv2d(6, 10, patch_size=2).double()
    image = torch.randn(2, 6, 9, 12, dtype=torch.float64)
    trained = layer(image)
    with torch.no_grad():
        torch.testing.assert_close(layer(image), trained)
    assert trained.is_contiguous(memory_format=torch.channels_last)


def test_gradients_of_gradients_are_right():
    torch.manual_seed(0)
    layer = PatchConv2d(2, 3, patch_size=2).double()
    image = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (image,))
