"""Compares multi-scale deformable attention and its gradients with mmcv's own plain torch version."""

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import Tensor

LEVELS = [[6, 5], [3, 4], [1, 2]]  # height and width


def inputs(dtype: torch.dtype = torch.float64, device: str = "cpu", num_queries: int = 7) -> tuple[Tensor, ...]:
    """Values, sampling locations and weights of 2 images, 2 heads of 4 channels, and 3 points a level."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 30 + 12 + 2, 2, 4, generator=generator, dtype=torch.float64)
    # A fifth of the points lie outside the map, some by less than a pixel.
    locations = torch.rand(2, num_queries, 2, 3, 3, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    weights = torch.rand(2, num_queries, 2, 3, 3, generator=generator, dtype=torch.float64)
    return tuple(tensor.to(device, dtype).requires_grad_() for tensor in (values, locations, weights))


def by_served_operator(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    shapes, starts = (torch.tensor(numbers, device=values.device) for numbers in (LEVELS, [0, 30, 42]))
    return MultiScaleDeformableAttnFunction.apply(values, shapes, starts, locations, weights, 64)


def by_mmcv(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return multi_scale_deformable_attn_pytorch(values, LEVELS, locations, weights)


def test_attention_and_all_gradients_equal_mmcv(device):
    results = []
    for attend in (by_served_operator, by_mmcv):
        tensors = inputs(device=device)
        output = attend(*tensors)
        output.pow(2).sum().backward()
        results.append((output, [tensor.grad for tensor in tensors]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_takes_all_floats(dtype, device):
    tensors = inputs(dtype, device)
    output = by_served_operator(*tensors)
    output.sum().backward()
    assert {output.dtype, *(tensor.grad.dtype for tensor in tensors)} == {dtype}
    expected = by_mmcv(*(tensor.detach().double() for tensor in tensors))
    torch.testing.assert_close(output.double(), expected, rtol=2e-2, atol=2e-2)


def test_no_queries_give_no_outputs_and_no_gradient(device):
    tensors = inputs(device=device, num_queries=0)
    output = by_served_operator(*tensors)
    output.sum().backward()
    assert output.shape == (2, 0, 8)
    assert not tensors[0].grad.any()
