"""Points exactly one pixel outside a map, on its pixels, and in its corners: gradients by the rule of mmcv's kernels.

mmcv v2.1.0, mmcv/ops/csrc/common/cuda, deform_conv_cuda_kernel.cuh, modulated_deform_conv_cuda_kernel.cuh and
ms_deform_attn_cuda_kernel.cuh: a point counts where -1 < y < H and -1 < x < W, and its four pixels begin at its floor.
"""

import itertools
import math

import pytest
import torch
from mmcv.ops import ModulatedDeformConv2dPack, deform_conv2d, modulated_deform_conv2d
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor

NAMES = ("stride", "padding", "dilation", "groups", "offset_groups")
GEOMETRIES = [
    dict(zip(NAMES, ((1, 1), (1, 1), (1, 1), 1, 1), strict=True)),
    dict(zip(NAMES, ((2, 1), (1, 2), (1, 2), 2, 2), strict=True)),
    dict(zip(NAMES, ((1, 2), (2, 0), (3, 1), 1, 4), strict=True)),
]


def read(maps: Tensor, y: float, x: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value of ``maps`` (C, H, W) at a point and its slopes along y and x, each (C,)."""
    height, width = maps.shape[1:]
    none = maps.new_zeros(len(maps))
    if not (-1 < y < height and -1 < x < width):
        return none, none, none
    top, left = math.floor(y), math.floor(x)
    low, right = y - top, x - left
    a, b, c, d = (
        maps[:, row, column] if 0 <= row < height and 0 <= column < width else none
        for row in (top, top + 1)
        for column in (left, left + 1)
    )
    value = (1 - low) * ((1 - right) * a + right * b) + low * ((1 - right) * c + right * d)
    return value, (1 - right) * (c - a) + right * (d - b), (1 - low) * (b - a) + low * (d - c)


def convolution_inputs(geometry: dict, size: tuple[int, int] = (4, 5)) -> dict[str, Tensor]:
    """A map of random numbers and a kernel of 2 x 3; two thirds of the offsets are whole numbers."""
    generator = torch.Generator().manual_seed(0)
    outputs = [
        (length + 2 * pad - step * (window - 1) - 1) // stride + 1
        for length, window, stride, pad, step in zip(
            size, (2, 3), geometry["stride"], geometry["padding"], geometry["dilation"], strict=True
        )
    ]
    offsets = torch.randn(2, geometry["offset_groups"] * 12, *outputs, generator=generator, dtype=torch.float64) * 1.5
    whole = torch.rand(offsets.shape, generator=generator) < 2 / 3
    return {
        "input": torch.randn(2, 4, *size, generator=generator, dtype=torch.float64),
        "offset": torch.where(whole, offsets.round(), offsets),
        "mask": torch.rand(2, geometry["offset_groups"] * 6, *outputs, generator=generator, dtype=torch.float64),
        "weight": torch.randn(2, 4 // geometry["groups"], 2, 3, generator=generator, dtype=torch.float64),
        "grad": torch.randn(2, 2, *outputs, generator=generator, dtype=torch.float64),
    }


def convolution_gradients(geometry: dict, version: int, **tensors: Tensor) -> tuple[Tensor, Tensor, set]:
    """Gradients of offset and mask, point by point, and the coordinates that occurred."""
    maps, offset, mask, weight, grad = (tensors[name] for name in ("input", "offset", "mask", "weight", "grad"))
    channels, per_group = maps.shape[1] // geometry["offset_groups"], weight.shape[1]
    by_offset, by_mask, places = torch.zeros_like(offset), torch.zeros_like(mask), set()
    taps = range(geometry["offset_groups"]), range(2), range(3), range(grad.shape[2]), range(grad.shape[3])
    for n, (e, r, s, p, q) in itertools.product(range(2), itertools.product(*taps)):
        tap = e * 6 + r * 3 + s
        y = p * geometry["stride"][0] - geometry["padding"][0] + r * geometry["dilation"][0]
        x = q * geometry["stride"][1] - geometry["padding"][1] + s * geometry["dilation"][1]
        y, x = y + offset[n, 2 * tap, p, q].item(), x + offset[n, 2 * tap + 1, p, q].item()
        places.add((y, x))
        inputs = range(e * channels, (e + 1) * channels)
        value, by_y, by_x = read(maps[n, inputs.start : inputs.stop], y, x)
        # Input c feeds the outputs of its group.
        outputs = 2 // geometry["groups"]
        factor = torch.stack(
            [
                sum(
                    grad[n, d, p, q] * weight[d, c % per_group, r, s]
                    for d in range(c // per_group * outputs, (c // per_group + 1) * outputs)
                )
                for c in inputs
            ]
        )
        scale = mask[n, tap, p, q] if version == 2 else 1
        by_offset[n, 2 * tap, p, q] = (factor * by_y).sum() * scale
        by_offset[n, 2 * tap + 1, p, q] = (factor * by_x).sum() * scale
        by_mask[n, tap, p, q] = (factor * value).sum()
    return by_offset, by_mask, places


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["plain", "groups", "dilated"])
@pytest.mark.parametrize("version", [1, 2])
def test_deform_conv_has_the_slopes_of_mmcv_on_all_borders(version, geometry, device):
    tensors = convolution_inputs(geometry)
    by_offset, by_mask, places = convolution_gradients(geometry, version, **tensors)
    # All four borders and both kinds of corners must occur, or the test proves nothing.
    assert {-1.0, 4.0} <= {y for y, _ in places}
    assert {-1.0, 5.0} <= {x for _, x in places}
    assert {(-1.0, -1.0), (4.0, 5.0)} & places
    here = {name: tensor.to(device).requires_grad_() for name, tensor in tensors.items()}
    if version == 1:
        output = deform_conv2d(here["input"], here["offset"], here["weight"], *geometry.values())
    else:
        arguments = (here[name] for name in ("input", "offset", "mask", "weight"))
        output = modulated_deform_conv2d(*arguments, None, *geometry.values())
        (grad,) = torch.autograd.grad(output, here["mask"], here["grad"], retain_graph=True)
        torch.testing.assert_close(grad.cpu(), by_mask)
    (grad,) = torch.autograd.grad(output, here["offset"], here["grad"])
    torch.testing.assert_close(grad.cpu(), by_offset)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_first_step_of_a_modulated_pack_has_the_gradients_of_mmcv_test(dtype):
    """mmcv v2.1.0, tests/test_ops/test_modulated_deform_conv.py: output_t, dcn_w_grad, dcn_offset_w_grad, _b_grad."""
    image = torch.tensor([[1.0, 2.0, 3.0]] * 3, dtype=dtype)[None, None].requires_grad_()
    pack = ModulatedDeformConv2dPack(1, 1, kernel_size=2, stride=1, padding=1, bias=False).to(dtype)
    pack.weight.data.fill_(1)
    output = pack(image)
    output.sum().backward()
    edge, middle = [0.5, 1.5, 2.5, 1.5], [1.0, 3.0, 5.0, 3.0]
    assert output[0, 0].tolist() == [edge, middle, middle, edge]
    assert image.grad.unique().tolist() == [2.0]
    assert pack.weight.grad.unique().tolist() == [9.0]
    assert pack.conv_offset.bias.grad.tolist() == [-3.0, -1.5] * 4 + [4.5] * 4
    assert pack.conv_offset.weight.grad[:, 0].tolist() == [
        *([[-7.0, -4.0], [0.0, 0.0]], [[-9.0, 7.5], [-6.0, 5.0]], [[-4.0, -7.0], [0.0, 0.0]]),
        *([[-7.5, -9.0], [-5.0, -6.0]], [[-7.0, -4.0], [-7.0, -4.0]], [[-6.0, 5.0], [-9.0, 7.5]]),
        *([[-4.0, -7.0], [-4.0, -7.0]], [[-5.0, -6.0], [-7.5, -9.0]], [[10.5, 6.0], [7.0, 4.0]]),
        *([[6.0, 10.5], [4.0, 7.0]], [[7.0, 4.0], [10.5, 6.0]], [[4.0, 7.0], [6.0, 10.5]]),
    ]


def test_infinite_offsets_are_outside():
    image = torch.ones(1, 1, 4, 4, requires_grad=True)
    offset = torch.zeros(1, 2, 4, 4)
    offset[0, :, 1, 1], offset[0, 1, 2, 2] = -torch.inf, torch.inf
    offset.requires_grad_()
    deform_conv2d(image, offset, torch.ones(1, 1, 1, 1)).sum().backward()
    assert not offset.grad[0, :, 1, 1].any()
    assert not offset.grad[0, :, 2, 2].any()
    assert image.grad.flatten().tolist() == [1.0] * 5 + [0.0] + [1.0] * 4 + [0.0] + [1.0] * 5


# Powers of two, for which all divisions are exact, and other sizes.
LEVELS = [[6, 5], [3, 7], [4, 8], [1, 1], [13, 9]]


def attention_inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Values, locations, weights and gradient; three quarters of the points are on or beside pixels."""
    generator = torch.Generator().manual_seed(0)
    random = {"generator": generator, "dtype": dtype}
    locations = []
    for size in LEVELS:
        axes = []
        for length in reversed(size):
            whole = torch.randint(-2, length + 2, (1, 30, 2, 3), generator=generator).to(dtype)
            between = torch.rand(1, 30, 2, 3, **random) * (torch.rand(1, 30, 2, 3, generator=generator) < 0.25)
            axes.append((whole + between + 0.5) / length)
        locations.append(torch.stack(axes, dim=-1))
    places = sum(height * width for height, width in LEVELS)
    values, weights = torch.randn(1, places, 2, 4, **random), torch.rand(1, 30, 2, len(LEVELS), 3, **random)
    return values, torch.stack(locations, dim=3), weights, torch.randn(1, 30, 8, **random)


def attention(values: Tensor, locations: Tensor, weights: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, and the gradients of locations and weights, point by point."""
    output, by_location, by_weight = grad.new_zeros(1, 30, 2, 4), torch.zeros_like(locations), torch.zeros_like(weights)
    for q, m, p in itertools.product(range(30), range(2), range(3)):
        start, top = 0, grad.view(1, 30, 2, 4)[0, q, m]
        for level, (height, width) in enumerate(LEVELS):
            at = (0, q, m, level, p)
            maps = values[0, start : start + height * width, m].T.unflatten(1, (height, width))
            start += height * width
            # In the precision of the inputs, as in the kernel.
            x, y = (locations[at] * torch.tensor([width, height]) - 0.5).tolist()
            value, by_y, by_x = read(maps, y, x)
            output[0, q, m] += value * weights[at]
            by_weight[at] = value @ top
            by_location[at] = torch.stack((width * (by_x @ top), height * (by_y @ top))) * weights[at]
    return [output.flatten(2), by_location, by_weight]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_attention_has_the_slopes_of_mmcv_on_borders_and_pixels(dtype, device):
    values, locations, weights, grad = attention_inputs(dtype)
    expected = attention(values, locations, weights, grad)
    values, locations, weights = (part.to(device).requires_grad_() for part in (values, locations, weights))
    shapes = torch.tensor(LEVELS)
    starts = shapes.prod(dim=1).cumsum(0) - shapes.prod(dim=1)
    output = MultiScaleDeformableAttnFunction.apply(
        values, shapes.to(device), starts.to(device), locations, weights, 64
    )
    by_value, *grads = torch.autograd.grad(output, (values, locations, weights), grad.to(device))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for actual, wanted in zip((output, *grads), expected, strict=True):
        torch.testing.assert_close(actual.cpu(), wanted, rtol=tolerance, atol=tolerance)
    # The output is linear in the values.
    torch.testing.assert_close((by_value * values).sum(), (output * grad.to(device)).sum(), rtol=tolerance, atol=1e-3)


@pytest.mark.parametrize("length", [1, 3, 5, 8])
def test_attention_points_one_pixel_outside_get_no_gradient(length):
    """-0.5 / length is the point -1, 1 + 0.5 / length the point ``length``; points further away get none either."""
    middle = 0.5 if length % 2 else 0.4
    ends = (-0.5 / length, 1 + 0.5 / length, torch.inf, -torch.inf)
    points = [*((end, middle) for end in ends), *((middle, end) for end in ends), *itertools.product(ends, ends)]
    locations = torch.tensor(points, dtype=torch.float64).view(1, -1, 1, 1, 1, 2).requires_grad_()
    values = torch.ones(1, length * length, 1, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.ones(1, len(points), 1, 1, 1, dtype=torch.float64, requires_grad=True)
    output = MultiScaleDeformableAttnFunction.apply(
        values, torch.tensor([[length, length]]), torch.tensor([0]), locations, weights, 64
    )
    output.sum().backward()
    assert not locations.grad.any()
    assert not weights.grad.any()
    assert not values.grad.any()
