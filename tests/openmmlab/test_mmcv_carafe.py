"""Compares CARAFE with its definition, position by position."""

import pytest
import torch
from mmcv.ops import CARAFE, CARAFENaive, carafe, carafe_naive


def upsampled(features, masks, kernel_size, group_size, scale_factor):
    """arXiv 1905.02188, equation 4, as loops."""
    images, channels, height, width = features.shape
    half = kernel_size // 2
    rows = []
    for n in range(images):
        for c in range(channels):
            group = c // (channels // group_size)
            for y in range(height * scale_factor):
                for x in range(width * scale_factor):
                    total = features.new_zeros(())
                    for k in range(kernel_size**2):
                        source_y = y // scale_factor + k // kernel_size - half
                        source_x = x // scale_factor + k % kernel_size - half
                        if 0 <= source_y < height and 0 <= source_x < width:
                            mask = masks[n, group * kernel_size**2 + k, y, x]
                            total = total + features[n, c, source_y, source_x] * mask
                    rows.append(total)
    return torch.stack(rows).view(images, channels, height * scale_factor, width * scale_factor)


@pytest.mark.parametrize("upsample", [carafe, carafe_naive], ids=["plain", "naive"])
def test_carafe_and_its_gradients_are_those_of_the_definition(upsample, device):
    torch.manual_seed(0)
    features = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    masks = torch.randn(2, 2 * 9, 6, 4, dtype=torch.float64, requires_grad=True)
    expected = upsampled(features, masks, 3, 2, 2)
    weights = torch.randn_like(expected)
    expected_grads = torch.autograd.grad((expected * weights).sum(), (features, masks))
    output = upsample(features.to(device), masks.to(device), 3, 2, 2).cpu()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(torch.autograd.grad((output * weights).sum(), (features, masks)), expected_grads)


@pytest.mark.parametrize("module", [CARAFE, CARAFENaive])
def test_carafe_passes_the_gradcheck_of_mmcv_on_the_cpu(module):
    """mmcv v2.1.0, tests/test_ops/test_carafe.py: test_carafe_gradcheck and test_carafe_naive_gradcheck, smaller."""
    features = torch.randn(1, 4, 3, 3, requires_grad=True, dtype=torch.float64)
    masks = torch.rand(1, 100, 6, 6, requires_grad=True, dtype=torch.float64)
    assert torch.autograd.gradcheck(module(5, 4, 2), (features, masks), atol=1e-4, eps=1e-4, fast_mode=True)


@pytest.mark.parametrize("wanted", ["features", "masks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_naive_carafe_takes_all_floats_and_gradients_of_one_input(dtype, wanted):
    inputs = {"features": torch.randn(1, 2, 3, 3, dtype=dtype), "masks": torch.randn(1, 9, 6, 6, dtype=dtype)}
    inputs[wanted].requires_grad_()
    output = carafe_naive(inputs["features"], inputs["masks"], 3, 1, 2)
    # The sum's gradient is a single number, expanded: not contiguous.
    output.sum().backward()
    assert output.dtype == inputs[wanted].grad.dtype == dtype
    exact = {name: tensor.detach().double() for name, tensor in inputs.items()}
    exact[wanted].requires_grad_()
    upsampled(exact["features"], exact["masks"], 3, 1, 2).sum().backward()
    torch.testing.assert_close(inputs[wanted].grad.double(), exact[wanted].grad, rtol=2e-2, atol=5e-2)
