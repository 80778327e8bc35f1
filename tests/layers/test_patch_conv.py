"""The linear layer on patches that compiles, against the convolution that runs eagerly."""

import pytest
import torch

from convnext_dense.layers import PatchConv2d


@pytest.mark.parametrize("size", [(2, 6, 8, 12), (1, 6, 7, 5)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_compiled_layer_has_the_convolutions_output_and_gradients(size, layout):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = PatchConv2d(6, 10, patch_size=2).double()
    results = []
    for function in (layer, torch.compile(layer, backend="eager", dynamic=True, fullgraph=True)):
        x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = x.contiguous(memory_format=layout).requires_grad_()
        layer.zero_grad()
        output = function(x)
        (output * torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)).sum().backward()
        results.append((output, x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    torch.testing.assert_close(*results)
