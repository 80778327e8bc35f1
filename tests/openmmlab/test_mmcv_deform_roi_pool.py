"""Compares deformable RoI pooling with torchvision where nothing moves, plain loops, and numeric gradients."""

import itertools
import math

import pytest
import torch
import torchvision
from mmcv.ops import deform_roi_pool

# Different sizes and images, one across the edge of the map.
ROIS = [[0, 4.3, 2.1, 30.7, 19.2], [1, -4.4, 3.5, 11.9, 18.6], [1, 14.2, 9.7, 25.1, 20.3]]
SCALE, GAMMA = 0.25, 0.3


def inputs(size=(2, 3)):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 7, 9, generator=generator, dtype=torch.float64)
    offset = torch.randn(len(ROIS), 2, *size, generator=generator, dtype=torch.float64)
    return maps, torch.tensor(ROIS, dtype=torch.float64), offset


def pooled(maps, rois, offset, size, sampling_ratio):
    """arXiv 1811.11168, equation 3: every bin is RoI align of a RoI that is moved by the bin's offset."""
    rows, columns = size
    outputs = []
    for k, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        width, height = x2 - x1, y2 - y1
        # The bins of a moved RoI must have the same number of points as those of this one.
        ratio = sampling_ratio or math.ceil(max(height * SCALE / rows, width * SCALE / columns))
        for p in range(rows):
            for q in range(columns):
                by_x, by_y = (GAMMA * extent * offset[k, i, p, q] for i, extent in enumerate((width, height)))
                moved = torch.stack((by_x * 0 + image, x1 + by_x, y1 + by_y, x2 + by_x, y2 + by_y))[None]
                bins = torchvision.ops.roi_align(maps, moved, size, SCALE, ratio, aligned=True)
                outputs.append(bins[0, :, p, q])
    return torch.stack(outputs).view(len(rois), rows, columns, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_pooling_without_offsets_is_roi_align(sampling_ratio, device):
    maps, rois, offset = (tensor.to(device) for tensor in inputs())
    expected = torchvision.ops.roi_align(maps, rois, (2, 3), SCALE, sampling_ratio, aligned=True)
    for still in (None, torch.zeros_like(offset)):
        output = deform_roi_pool(maps, rois, still, (2, 3), SCALE, sampling_ratio, GAMMA)
        torch.testing.assert_close(output, expected)


def test_every_bin_is_moved_by_its_own_offset(device):
    maps, rois, offset = inputs()
    maps.requires_grad_()
    expected = pooled(maps, rois, offset, (2, 3), 2)
    output = deform_roi_pool(maps.to(device), rois.to(device), offset.to(device), (2, 3), SCALE, 2, GAMMA).cpu()
    torch.testing.assert_close(output, expected)
    weights = torch.randn_like(expected)
    grads = [torch.autograd.grad((bins * weights).sum(), maps)[0] for bins in (output, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradients_between_pixels_are_the_numeric_ones(sampling_ratio):
    maps, rois, offset = inputs()
    # All points lie on the map: beyond the pixels, mmcv's gradient is different.
    rois[1, 1], offset = 6.1, offset.clamp(-0.1, 0.1)

    def pool(maps, offset):
        return deform_roi_pool(maps, rois, offset, (2, 3), SCALE, sampling_ratio, GAMMA)

    assert torch.autograd.gradcheck(pool, (maps.requires_grad_(), offset.requires_grad_()), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda maps: deform_roi_pool(maps, rois, None, (2, 3), SCALE, sampling_ratio, GAMMA), maps, fast_mode=True
    )


def offset_gradient(maps, rois, offset, grad, ratio):
    """mmcv v2.1.0, deform_roi_pool_cuda_kernel.cuh, point by point: y and x as they are, between pixels on the map."""
    result, (height, width) = torch.zeros_like(offset), maps.shape[2:]
    rows, columns = offset.shape[2:]
    for k, p, q in itertools.product(range(len(rois)), range(rows), range(columns)):
        image = int(rois[k, 0])
        x1, y1, x2, y2 = (rois[k, 1:] * SCALE - 0.5).tolist()
        bin_height, bin_width = (y2 - y1) / rows, (x2 - x1) / columns
        by_x, by_y = (GAMMA * extent * offset[k, i, p, q].item() for i, extent in enumerate((x2 - x1, y2 - y1)))
        for i, j in itertools.product(range(ratio), range(ratio)):
            # In the kernel's order: the last digit decides on which side of a pixel a point lies.
            y = y1 + by_y + p * bin_height + (i + 0.5) * bin_height / ratio
            x = x1 + by_x + q * bin_width + (j + 0.5) * bin_width / ratio
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            top, left = (min(int(max(place, 0)), length - 1) for place, length in ((y, height), (x, width)))
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = maps[image, :, top, left], maps[image, :, top, right]
            c, d = maps[image, :, bottom, left], maps[image, :, bottom, right]
            along_x = d * (y - top) + b * (bottom - y) + c * (top - y) + a * (y - bottom)
            along_y = d * (x - left) + c * (right - x) + b * (left - x) + a * (x - right)
            share = GAMMA * grad[k, :, p, q] / ratio**2
            result[k, 0, p, q] += (x2 - x1) * (share @ along_x)
            result[k, 1, p, q] += (y2 - y1) * (share @ along_y)
    return result


@pytest.mark.parametrize("moves", ["random", "none"])
def test_offsets_of_points_beyond_the_pixels_have_the_gradient_of_mmcv(moves, device):
    maps, _, offset = inputs()
    # Across all four borders and corners; the third and fourth have points at exactly -1, 7 and 9.
    rois = torch.tensor(
        [[0, -9, -7, 50, 40], [1, 25, 15, 45, 38], [0, -6, -6, 10, 6], [1, 14, 14, 50, 46]], dtype=torch.float64
    )
    offset = torch.cat((offset, offset[:1])) * (moves == "random")
    grad = torch.randn(4, 3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = offset_gradient(maps, rois, offset, grad, 2)
    here = offset.to(device).requires_grad_()
    output = deform_roi_pool(maps.to(device), rois.to(device), here, (2, 3), SCALE, 2, GAMMA)
    torch.testing.assert_close(torch.autograd.grad(output, here, grad.to(device))[0].cpu(), expected)


def test_half_is_calculated_in_single_precision():
    halves = [tensor.half() for tensor in inputs()]
    output = deform_roi_pool(*halves, (2, 3), SCALE, 2, GAMMA)
    expected = deform_roi_pool(*(tensor.float() for tensor in halves), (2, 3), SCALE, 2, GAMMA)
    torch.testing.assert_close(output, expected.half(), rtol=0, atol=0)
