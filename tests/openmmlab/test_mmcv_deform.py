"""Compares deformable convolutions and their gradients with torchvision's."""

import pytest
import torch
import torchvision
from mmcv import _ext
from mmcv.ops import DeformConv2d, deform_conv2d, modulated_deform_conv2d
from torch import Tensor

# All values differ so that none can be confused: strides, paddings, dilations, groups and sizes.
STRIDE, PADDING, DILATION, GROUPS, OFFSET_GROUPS = (2, 1), (1, 2), (1, 2), 2, 2


def inputs(dtype: torch.dtype = torch.float64, device: str = "cpu") -> dict[str, Tensor]:
    shapes = {
        "x": (2, 4, 7, 8),
        "offset": (2, OFFSET_GROUPS * 2 * 3 * 2, 4, 10),
        "mask": (2, OFFSET_GROUPS * 3 * 2, 4, 10),
        "weight": (6, 4 // GROUPS, 3, 2),
        "bias": (6,),
    }
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: tensor.to(device, dtype).requires_grad_() for name, tensor in random.items()}


def by_mmcv(version: int, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    geometry = (STRIDE, PADDING, DILATION, GROUPS, OFFSET_GROUPS)
    if version == 1:
        return deform_conv2d(x, offset, weight, *geometry)
    return modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry)


def by_torchvision(version: int, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    modulation = {"bias": bias, "mask": mask} if version == 2 else {}
    return torchvision.ops.deform_conv2d(
        x, offset, weight, stride=STRIDE, padding=PADDING, dilation=DILATION, **modulation
    )


@pytest.mark.parametrize("version", [1, 2])
def test_deform_conv_and_all_gradients_equal_torchvision(version, device):
    results = []
    for convolve in (by_mmcv, by_torchvision):
        tensors = inputs(device=device)
        output = convolve(version, **tensors)
        output.pow(2).sum().backward()
        results.append((output, [tensor.grad for tensor in tensors.values() if tensor.grad is not None]))
    assert len(results[0][1]) == (3 if version == 1 else 5)
    torch.testing.assert_close(*results)


def test_modulated_deform_conv_without_bias_adds_none():
    tensors = inputs()
    output = by_mmcv(2, **{**tensors, "bias": None})
    expected = by_torchvision(2, **{**tensors, "bias": torch.zeros_like(tensors["bias"])})
    torch.testing.assert_close(output, expected)
    gradients = (torch.autograd.grad(result.sum(), tensors["mask"])[0] for result in (output, expected))
    torch.testing.assert_close(*gradients)


def test_weight_gradient_does_not_need_that_of_the_input():
    tensors = inputs()
    (expected,) = torch.autograd.grad(by_torchvision(1, **tensors).pow(2).sum(), tensors["weight"])
    fixed = {name: tensor if name == "weight" else tensor.detach() for name, tensor in tensors.items()}
    (gradient,) = torch.autograd.grad(by_mmcv(1, **fixed).pow(2).sum(), fixed["weight"])
    torch.testing.assert_close(gradient, expected)


def test_weight_gradient_left_in_the_scratch_tensor_is_taken_once():
    tensors = inputs()
    output = by_torchvision(1, **tensors)
    (expected,) = torch.autograd.grad(output.sum(), tensors["weight"])
    x, offset, weight = (tensors[name].detach() for name in ("x", "offset", "weight"))
    geometry = {"kW": 2, "kH": 3, "dW": 1, "dH": 2, "padW": 2, "padH": 1, "dilationW": 2, "dilationH": 1}
    geometry |= {"group": GROUPS, "deformable_group": OFFSET_GROUPS, "im2col_step": 2}
    scratch, grad = x.new_empty(0), torch.ones_like(output)
    _ext.deform_conv_backward_input(
        x, offset, grad, torch.zeros_like(x), torch.zeros_like(offset), weight, scratch, **geometry
    )
    total = torch.zeros_like(weight)
    _ext.deform_conv_backward_parameters(x, offset, grad, total, scratch, x.new_empty(0), scale=0.5, **geometry)
    torch.testing.assert_close(total, 0.5 * expected)
    _ext.deform_conv_backward_parameters(x, offset, 3 * grad, total, scratch, x.new_empty(0), scale=1, **geometry)
    torch.testing.assert_close(total, 3.5 * expected)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_deform_conv_takes_all_floats(dtype, version, device):
    tensors = inputs(dtype, device)
    exact = {name: tensor.detach().double() for name, tensor in tensors.items()}
    output = by_mmcv(version, **tensors)
    output.sum().backward()
    assert output.dtype == tensors["x"].grad.dtype == tensors["weight"].grad.dtype == dtype
    torch.testing.assert_close(output.double(), by_torchvision(version, **exact), rtol=2e-2, atol=2e-2)


def test_deform_conv_without_offsets_is_a_convolution():
    layer = DeformConv2d(4, 6, 3, padding=1, groups=2)
    x = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=1, groups=2)
    torch.testing.assert_close(layer(x, torch.zeros(1, 18, 5, 6)), expected)


def test_larger_maps_of_offsets_are_read_as_rows_of_numbers():
    """As DyHead does; mmcv v2.1.0, modulated_deform_conv.cpp: im2col(input[b], offset[b], mask[b], ...) by pointer."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 2, 3, 3), "offset": (2, 2 * 4, 6, 6), "mask": (2, 4, 6, 6), "weight": (3, 2, 2, 2), "bias": (3,)}
    tensors = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }
    output = modulated_deform_conv2d(*(tensors[name] for name in ("x", "offset", "mask", "weight", "bias")))
    # 2 x 2 places of the output, 4 of the kernel: the first 8 * 4 numbers of an image's 288 offsets.
    rows = {
        "offset": torch.stack([image.reshape(-1)[: 8 * 4].view(8, 2, 2) for image in tensors["offset"]]),
        "mask": torch.stack([image.reshape(-1)[: 4 * 4].view(4, 2, 2) for image in tensors["mask"]]),
    }
    expected = torchvision.ops.deform_conv2d(
        tensors["x"], rows["offset"], tensors["weight"], bias=tensors["bias"], mask=rows["mask"]
    )
    torch.testing.assert_close(output, expected)
    inputs = list(tensors.values())
    gradients = (torch.autograd.grad(result.pow(2).sum(), inputs) for result in (output, expected))
    torch.testing.assert_close(*gradients)


def test_too_few_offsets_are_an_error():
    x, weight = torch.zeros(1, 2, 5, 5), torch.zeros(3, 2, 2, 2)
    with pytest.raises(ValueError, match=r"offset has the shape \(1, 8, 2, 2\); .* needs at least 128 numbers"):
        modulated_deform_conv2d(x, torch.zeros(1, 8, 2, 2), torch.zeros(1, 4, 2, 2), weight)
