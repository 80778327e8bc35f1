"""Deformable RoI pooling, against torchvision where nothing is moved, plain loops, and numeric gradients."""

import math

import pytest
import torch
import torchvision
from mmcv.ops import deform_roi_pool

# Of different sizes and images, one over the edge of the map.
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
        # What the bins of a moved RoI have as points must be what those of this one have.
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
def test_gradients_are_the_numeric_ones(sampling_ratio):
    maps, rois, offset = inputs()

    def pool(maps, offset):
        return deform_roi_pool(maps, rois, offset, (2, 3), SCALE, sampling_ratio, GAMMA)

    assert torch.autograd.gradcheck(pool, (maps.requires_grad_(), offset.requires_grad_()), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda maps: deform_roi_pool(maps, rois, None, (2, 3), SCALE, sampling_ratio, GAMMA), maps, fast_mode=True
    )


def test_half_is_calculated_in_single_precision():
    halves = [tensor.half() for tensor in inputs()]
    output = deform_roi_pool(*halves, (2, 3), SCALE, 2, GAMMA)
    expected = deform_roi_pool(*(tensor.float() for tensor in halves), (2, 3), SCALE, 2, GAMMA)
    torch.testing.assert_close(output, expected.half(), rtol=0, atol=0)
