"""The operators give the same results as compiled mmcv.

The expected arrays in ``fixtures/mmcv_compiled_ops.npz`` were written by mmcv's own compiled CPU operators on inputs
that the file holds as well (``nms_boxes``, ``nms_scores``, ``nms_ids``, ``ra_x``, ``ra_rois``, ``dc_x``, ``dc_w``,
``dc_off``, ``dc_m``). All calls go through mmcv's public Python functions. ``_keep`` are indices, ``_dets`` boxes with
scores; in ``ra_{sampling ratio}_{aligned}_{mode}``, ``_y`` is the output and ``_g`` the gradient of the input.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, bbox_overlaps, deform_conv2d, modulated_deform_conv2d, nms, roi_align, soft_nms
from torch import Tensor


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[1] / "fixtures" / "mmcv_compiled_ops.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=0)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.7])
def test_nms_equals_compiled_mmcv(golden, iou_threshold, device):
    dets, keep = nms(golden["nms_boxes"].to(device), golden["nms_scores"].to(device), iou_threshold)
    assert_equal(keep, golden[f"nms_keep_{iou_threshold}"])
    assert_close(dets, golden[f"nms_dets_{iou_threshold}"])


def test_nms_with_offset_equals_compiled_mmcv(golden, device):
    _, keep = nms(golden["nms_boxes"].to(device), golden["nms_scores"].to(device), 0.5, offset=1)
    assert_equal(keep, golden["nms_keep_off1"])


def test_batched_nms_equals_compiled_mmcv(golden, device):
    inputs = (golden[name].to(device) for name in ("nms_boxes", "nms_scores", "nms_ids"))
    dets, keep = batched_nms(*inputs, {"type": "nms", "iou_threshold": 0.5})
    assert_equal(keep, golden["bnms_keep"])
    assert_close(dets, golden["bnms_dets"])


@pytest.mark.parametrize("method", ["linear", "gaussian", "naive"])
def test_soft_nms_equals_compiled_mmcv(golden, method, device):
    boxes, scores = golden["nms_boxes"].to(device), golden["nms_scores"].to(device)
    dets, keep = soft_nms(boxes, scores, iou_threshold=0.3, sigma=0.5, min_score=1e-3, method=method)
    assert_equal(keep, golden[f"soft_{method}_keep"])
    assert_close(dets, golden[f"soft_{method}_dets"])


def test_bbox_overlaps_equals_compiled_mmcv(golden, device):
    boxes = golden["nms_boxes"].to(device)
    assert_close(bbox_overlaps(boxes[:50], boxes[50:90]), golden["iou"])


@pytest.mark.parametrize("pool_mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_and_its_gradient_equal_compiled_mmcv(golden, sampling_ratio, aligned, pool_mode, device):
    x = golden["ra_x"].to(device, copy=True).requires_grad_()
    output = roi_align(x, golden["ra_rois"].to(device), (7, 7), 0.125, sampling_ratio, pool_mode, aligned)
    # The expected gradient was made with these weights of the summed output.
    weights = torch.linspace(-1, 1, output.numel()).view_as(output).to(device)
    (output * weights).sum().backward()
    key = f"ra_{sampling_ratio}_{int(aligned)}_{pool_mode}"
    assert_close(output.detach(), golden[f"{key}_y"])
    assert_close(x.grad, golden[f"{key}_g"])


def test_deform_conv_equals_compiled_mmcv(golden, device):
    x, offset, weight = (golden[name].to(device) for name in ("dc_x", "dc_off", "dc_w"))
    assert_close(deform_conv2d(x, offset, weight, 1, 1, 1, 1, 1), golden["dc1_y"])


def test_modulated_deform_conv_equals_compiled_mmcv(golden, device):
    x, offset, mask, weight = (golden[name].to(device) for name in ("dc_x", "dc_off", "dc_m", "dc_w"))
    assert_close(modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 1, 1), golden["dc2_y"])
