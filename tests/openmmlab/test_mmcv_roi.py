"""Compares RoI align and RoI pool with torchvision where it computes the same, plain loops and numeric gradients.

Letters: N images, C channels, H and W size of the feature map, K RoIs.
"""

import math

import pytest
import torch
import torchvision
from mmcv import _ext
from mmcv.ops import roi_align, roi_pool
from torch import Tensor

from convnext_dense.openmmlab.mmcv_ops import roi_samples

# Partly outside the map, smaller than a bin, and of different sizes: several groups of RoIs in one call.
ROIS = [[0, 1.3, 2.1, 30.7, 19.2], [1, -9.4, -5.5, 11.9, 8.6], [1, 14.2, 9.7, 15.1, 10.3], [0, 20.4, 3.3, 47.8, 31.5]]


def features(dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 9, 11, generator=generator, dtype=torch.float64).to(device, dtype)


def rois(dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    return torch.tensor(ROIS, dtype=dtype, device=device)


def pool_one_by_one(x: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """RoI pool by its definition: the maximum over the pixels that a bin touches, 0 where it touches none."""
    output = x.new_zeros(len(boxes), x.shape[1], size, size)
    for index, (image, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        width, height = (x2 + 1 - x1) * scale / size, (y2 + 1 - y1) * scale / size
        for row in range(size):
            for column in range(size):
                top, bottom = math.floor(row * height + y1 * scale), math.ceil((row + 1) * height + y1 * scale)
                left, right = math.floor(column * width + x1 * scale), math.ceil((column + 1) * width + x1 * scale)
                pixels = x[int(image), :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
                if pixels.numel():
                    output[index, :, row, column] = pixels.amax((1, 2))
    return output


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_average_roi_align_equals_torchvision(aligned, sampling_ratio, device):
    x, boxes = features(device=device), rois(device=device)
    expected = torchvision.ops.roi_align(x, boxes, (3, 4), 0.25, sampling_ratio, aligned)
    torch.testing.assert_close(roi_align(x, boxes, (3, 4), 0.25, sampling_ratio, "avg", aligned), expected)


@pytest.mark.parametrize("aligned", [True, False])
def test_maximum_of_one_point_equals_its_average(aligned, device):
    x, boxes = features(device=device), rois(device=device)
    expected = torchvision.ops.roi_align(x, boxes, (3, 4), 0.25, 1, aligned)
    torch.testing.assert_close(roi_align(x, boxes, (3, 4), 0.25, 1, "max", aligned), expected)


@pytest.mark.parametrize("pool_mode", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_gradient_is_the_numeric_one(sampling_ratio, pool_mode):
    x = features().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, rois(), (3, 2), 0.25, sampling_ratio, pool_mode), x, fast_mode=True
    )


def test_gradients_are_added_to_what_is_there():
    keywords = {"spatial_scale": 0.25, "sampling_ratio": 2, "aligned": True, "aligned_height": 2, "aligned_width": 2}
    for pool_mode, argmax in ((0, torch.full((4, 3, 2, 2), 4.5)), (1, torch.empty(0))):
        arguments = (torch.ones(4, 3, 2, 2), rois(torch.float32), argmax, argmax)
        from_zero, from_one = torch.zeros(2, 3, 9, 11), torch.ones(2, 3, 9, 11)
        _ext.roi_align_backward(*arguments, from_zero, pool_mode=pool_mode, **keywords)
        _ext.roi_align_backward(*arguments, from_one, pool_mode=pool_mode, **keywords)
        assert from_zero.any()
        torch.testing.assert_close(from_one, from_zero + 1)


def test_roi_align_without_sampling_points_gives_zero(device):
    x = features(device=device).requires_grad_()
    inverted = torch.tensor([[0.0, 30, 20, 10, 4]], dtype=x.dtype, device=device)
    for pool_mode in ("avg", "max"):
        output = roi_align(x, inverted, 2, 0.25, 0, pool_mode)
        (gradient,) = torch.autograd.grad(output.sum(), x)
        assert not output.any()
        assert not gradient.any()


def test_roi_pool_equals_its_definition(device):
    x, boxes = features(device=device), rois(device=device)
    for scale in (0.25, 0.3):
        torch.testing.assert_close(roi_pool(x, boxes, 3, scale).cpu(), pool_one_by_one(x.cpu(), boxes.cpu(), 3, scale))


def test_roi_pool_and_its_gradient_equal_torchvision_on_whole_pixels(device):
    # torchvision rounds corners to whole pixels, mmcv does not.
    boxes = torch.tensor([[0.0, 0, 1, 6, 7], [1, 3, 2, 12, 8], [1, 4, 4, 4, 4]], dtype=torch.float64, device=device)
    outputs, gradients = [], []
    for pool in (roi_pool, torchvision.ops.roi_pool):
        x = features(device=device).requires_grad_()
        output = pool(x, boxes, (3, 2), 1.0)
        output.pow(2).sum().backward()
        outputs.append(output)
        gradients.append(x.grad)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_roi_pool_gradient_is_the_numeric_one():
    x = features().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, rois(), (3, 2), 0.25), x, fast_mode=True)


def test_roi_pool_of_a_roi_of_negative_size_gives_zero_and_no_gradient(device):
    x = features(device=device).requires_grad_()
    # From 2.65 to 2.6 on the map, which touches pixel 2.
    inverted = torch.tensor([[0, 10.6, 4.2, 9.4, 20]], dtype=x.dtype, device=device)
    output = roi_pool(x, inverted, 1, 0.25)
    output.sum().backward()
    assert not output.any()
    assert not x.grad.any()


POOLINGS = {
    "average": lambda x, boxes: roi_align(x, boxes, 3, 0.25, 0, "avg"),
    "average of 2 x 2": lambda x, boxes: roi_align(x, boxes, 3, 0.25, 2, "avg"),
    "maximum": lambda x, boxes: roi_align(x, boxes, 3, 0.25, 0, "max"),
    "maximum of 2 x 2": lambda x, boxes: roi_align(x, boxes, 3, 0.25, 2, "max"),
    "pool": lambda x, boxes: roi_pool(x, boxes, 3, 0.25),
}
every_pooling = pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS.keys())


@every_pooling
def test_no_rois_give_no_outputs_and_no_gradient(pooling, device):
    x = features(torch.float32, device).requires_grad_()
    output = pooling(x, torch.empty(0, 5, device=device))
    output.sum().backward()
    assert output.shape == (0, 3, 3, 3)
    assert not x.grad.any()


@every_pooling
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pooling_takes_short_floats(dtype, pooling, device):
    x, boxes = features(dtype, device).requires_grad_(), rois(dtype, device)
    exact = x.detach().double().requires_grad_()
    output, expected = pooling(x, boxes), pooling(exact, boxes.double())
    output.sum().backward()
    expected.sum().backward()
    assert output.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=2e-2, atol=2e-2)
    # The chosen points are stored in the short format, so a gradient may be slightly displaced.
    torch.testing.assert_close(x.grad.double().sum(), exact.grad.sum(), rtol=2e-2, atol=2e-2)


@every_pooling
def test_pooling_in_small_portions_changes_nothing(pooling, monkeypatch):
    results = []
    for elements_at_once in (roi_samples._ELEMENTS_AT_ONCE, 1):
        monkeypatch.setattr(roi_samples, "_ELEMENTS_AT_ONCE", elements_at_once)
        x = features().requires_grad_()
        output = pooling(x, rois())
        output.pow(2).sum().backward()
        results.append((output, x.grad))
    torch.testing.assert_close(*results)
