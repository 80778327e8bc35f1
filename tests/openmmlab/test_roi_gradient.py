"""The gradient of RoI align on a CPU, compared with torchvision's."""

import pytest
import torch
from torchvision.ops import roi_align

from convnext_dense.openmmlab.mmcv_ops import roi_gradient, roi_samples
from convnext_dense.openmmlab.mmcv_ops.roi_gradient import can_use, roi_align_gradient

SHAPE, SCALE = (3, 4, 13, 10), 0.25  # images of 52 x 40 pixels


def boxes(number, dtype):
    """RoIs inside, across and outside the edges; some are smaller than a pixel of the map, or of negative size."""
    generator = torch.Generator().manual_seed(number)
    corners = torch.rand(number, 4, generator=generator, dtype=dtype) * 90 - 20
    corners[: number // 2, 2:] = corners[: number // 2, :2] + torch.rand(number // 2, 2, generator=generator) * 3
    images = torch.randint(0, SHAPE[0], (number, 1), generator=generator).to(dtype)
    return torch.cat([images, corners], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("bins", "sampling_ratio"), [((7, 7), 2), ((3, 5), 1), ((14, 2), 3)])
def test_it_is_torchvisions(bins, sampling_ratio, aligned, dtype):
    x = torch.randn(SHAPE, dtype=dtype, requires_grad=True)
    rois = boxes(60, dtype)
    pooled = roi_align(x, rois, bins, SCALE, sampling_ratio, aligned)
    grad = torch.randn_like(pooled)
    (expected,) = torch.autograd.grad(pooled, x, grad)
    given = dict(spatial_scale=SCALE, sampling_ratio=sampling_ratio, aligned=aligned)
    torch.testing.assert_close(roi_align_gradient(grad, rois, SHAPE, **given), expected)


def test_a_matrix_in_parts_gives_the_same(monkeypatch):
    rois, grad = boxes(9, torch.float64), torch.randn(9, 4, 3, 3, dtype=torch.float64)
    given = dict(spatial_scale=SCALE, sampling_ratio=2, aligned=True)
    whole = roi_align_gradient(grad, rois, SHAPE, **given)
    monkeypatch.setattr(roi_samples, "_ELEMENTS_AT_ONCE", 8 * 9 * 16 * 2)  # two RoIs
    parts, sparse = [], roi_gradient._sparse
    monkeypatch.setattr(roi_gradient, "_sparse", lambda rows, *rest: parts.append(len(rows)) or sparse(rows, *rest))
    torch.testing.assert_close(roi_align_gradient(grad, rois, SHAPE, **given), whole)
    assert parts == [9 * 16 * 2] * 4 + [9 * 16]  # of nine


def test_a_roi_that_is_not_a_number_gets_no_gradient():
    """A model whose loss overflowed predicts such boxes; the run has to live until the loss is looked at."""
    rois, grad = torch.tensor([[0.0, 4, 4, 20, 20], [1, float("nan"), 4, float("inf"), 20]]), torch.ones(2, 4, 3, 3)
    given = dict(spatial_scale=SCALE, sampling_ratio=2, aligned=True)
    found = roi_align_gradient(grad, rois, SHAPE, **given)
    torch.testing.assert_close(found[0], roi_align_gradient(grad[:1], rois[:1], SHAPE, **given)[0])
    assert not found[1:].any()


def test_no_rois_give_no_gradient():
    grad = roi_align_gradient(
        torch.zeros(0, 4, 7, 7), torch.zeros(0, 5), SHAPE, spatial_scale=SCALE, sampling_ratio=2, aligned=True
    )
    assert grad.shape == SHAPE
    assert not grad.any()


def test_mmcvs_operator_uses_it(monkeypatch):
    from mmcv.ops import roi_align as mmcvs

    calls = []
    original = roi_gradient.roi_align_gradient
    monkeypatch.setattr(
        roi_gradient, "roi_align_gradient", lambda *args, **given: calls.append(given) or original(*args, **given)
    )
    for sampling_ratio in (2, 0):  # with 0 the number of samples depends on the RoI
        x = torch.randn(SHAPE, requires_grad=True)
        rois = torch.tensor([[1.0, 3, 4, 30, 40]])
        mmcvs(x, rois, 7, SCALE, sampling_ratio, "avg", True).sum().backward()
    assert [given["sampling_ratio"] for given in calls] == [2]


def test_where_it_is_not_used(monkeypatch):
    assert can_use(torch.zeros(1), 2)
    assert not can_use(torch.zeros(1), 0)
    assert not can_use(torch.zeros(1, dtype=torch.bfloat16), 2)
    assert not can_use(torch.zeros(1, device="meta"), 2)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not can_use(torch.zeros(1), 2)
