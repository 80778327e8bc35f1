"""Compares border align with its definition, point by point."""

import math

import torch
from mmcv.ops import border_align

# Inside, across the edges, upside down, and far from the map; x1, y1, x2, y2.
BOXES = [[[1.2, 0.7, 4.9, 3.1], [-0.6, -0.4, 6.5, 4.6]], [[4.4, 3.3, 1.1, 0.6], [-9.0, 1.5, -7.0, 3.5]]]


def value(plane, y, x):
    """Bilinear interpolation; up to one pixel outside the map the border counts, beyond nothing does."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.new_zeros(())
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    above = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
    below = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
    return above * (1 - y + top) + below * (y - top)


def aligned(maps, boxes, pool_size):
    """arXiv 2007.11056, equation 3: the maximum of a side's own channel over its points."""
    images, channels = maps.shape[0], maps.shape[1] // 4
    outputs = []
    for n in range(images):
        for c in range(channels):
            for x1, y1, x2, y2 in boxes[n].tolist():
                corners = ((x1, y1, x2, y1), (x1, y1, x1, y2), (x2, y2, x1, y2), (x2, y2, x2, y1))
                for side, (from_x, from_y, to_x, to_y) in enumerate(corners):
                    plane = maps[n, side * channels + c]
                    parts = [i / pool_size for i in range(pool_size + 1)]
                    points = [(from_y + (to_y - from_y) * t, from_x + (to_x - from_x) * t) for t in parts]
                    outputs.append(torch.stack([value(plane, y, x) for y, x in points]).max())
    return torch.stack(outputs).view(images, channels, boxes.shape[1], 4)


def test_border_align_and_its_gradient_are_those_of_the_definition(device):
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 4, 6, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor(BOXES, dtype=torch.float64)
    expected = aligned(maps, boxes, 3)
    weights = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), maps)
    output = border_align(maps.to(device), boxes.to(device), 3)
    torch.testing.assert_close(output.cpu(), expected)
    (grad,) = torch.autograd.grad((output.cpu() * weights).sum(), maps)
    torch.testing.assert_close(grad, expected_grad)


def test_border_align_gradient_is_the_numeric_one():
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 4, 6, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor(BOXES, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda maps: border_align(maps, boxes, 2), maps, fast_mode=True)


def test_border_align_calculates_half_in_single_precision():
    maps = torch.randn(2, 8, 4, 6).half()
    boxes = torch.tensor(BOXES).half()
    expected = border_align(maps.float(), boxes.float(), 3)
    torch.testing.assert_close(border_align(maps, boxes, 3), expected.half(), rtol=0, atol=0)
