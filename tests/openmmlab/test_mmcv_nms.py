"""Compares suppression and overlaps of boxes with small cases by hand and a plain double-precision loop."""

import numpy as np
import pytest
import torch
from mmcv import _ext
from mmcv.ops import bbox_overlaps, nms, nms_match, soft_nms
from torch import Tensor


def random_boxes(num_boxes: int, generator: torch.Generator) -> Tensor:
    top_left = torch.rand(num_boxes, 2, generator=generator) * 60
    return torch.cat((top_left, top_left + torch.rand(num_boxes, 2, generator=generator) * 40), dim=1)


def suppress_one_by_one(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> list[int]:
    """Non-maximum suppression by its definition, in Python's double precision."""
    rows, kept = boxes.double().tolist(), []
    for index in scores.argsort(descending=True).tolist():
        x1, y1, x2, y2 = rows[index]
        for other in kept:
            u1, v1, u2, v2 = rows[other]
            width = max(0.0, min(x2, u2) - max(x1, u1) + offset)
            height = max(0.0, min(y2, v2) - max(y1, v1) + offset)
            areas = (x2 - x1 + offset) * (y2 - y1 + offset) + (u2 - u1 + offset) * (v2 - v1 + offset)
            if width * height / (areas - width * height) > iou_threshold:
                break
        else:
            kept.append(index)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_equals_its_definition(dtype, offset, device):
    generator = torch.Generator().manual_seed(0)
    boxes, scores = random_boxes(150, generator), torch.rand(150, generator=generator)
    _, keep = nms(boxes.to(device, dtype), scores.to(device, dtype), 0.4, offset=offset)
    assert keep.tolist() == suppress_one_by_one(boxes, scores, 0.4, offset)


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_a_pair_whose_iou_is_the_threshold(offset, device):
    # 3 of 10 pixels; in float32 that is a little more than the double 0.3.
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]], device=device)
    boxes[:, 2:] -= offset
    _, keep = nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.3, offset=offset)
    assert keep.tolist() == [0, 1]


def test_nms_keeps_the_order_of_equal_scores(device):
    boxes = torch.tensor([[0.0, 0, 4, 4], [20, 0, 24, 4], [0, 0, 4, 4], [40, 0, 44, 4]], device=device)
    _, keep = nms(boxes, torch.full((4,), 0.5, device=device), 0.5)
    assert keep.tolist() == [0, 1, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_takes_short_floats(dtype, device):
    # The areas overflow half precision.
    boxes = torch.tensor([[0, 0, 1024, 1024], [0, 0, 1024, 896], [0, 0, 512, 512]], dtype=dtype, device=device)
    dets, keep = nms(boxes, torch.tensor([0.75, 0.5, 0.25], dtype=dtype, device=device), 0.5)
    assert keep.tolist() == [0, 2]
    assert dets.dtype == dtype


def test_nms_of_numpy_arrays_gives_numpy_arrays():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4]], dtype=np.float32)
    dets, keep = nms(boxes, np.array([0.5, 0.75], dtype=np.float32), 0.5)
    assert keep.tolist() == [1]
    assert dets.tolist() == [[0, 0, 4, 4, 0.75]]


def test_no_boxes_give_no_indices(device):
    boxes, scores = torch.empty(0, 4, device=device), torch.empty(0, device=device)
    for suppress in (nms, soft_nms):
        dets, keep = suppress(boxes, scores, 0.5)
        assert dets.shape == (0, 5)
        assert keep.shape == (0,)
        assert keep.dtype == torch.long
    assert _ext.nms_match(torch.empty(0, 5), iou_threshold=0.5) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_soft_nms_takes_all_floats(dtype):
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 2], [8, 8, 9, 9]], dtype=dtype)
    dets, keep = soft_nms(boxes, torch.tensor([0.75, 0.5, 0.125], dtype=dtype), iou_threshold=0.5)
    assert keep.tolist() == [0, 1, 2]
    assert dets[:, 4].tolist() == [0.75, 0.25, 0.125]  # linear: an overlap of the threshold, 0.5, leaves half
    assert dets.dtype == dtype


def test_soft_nms_moves_the_last_boxes_into_the_places_of_dropped_ones():
    # Boxes 1 and 2 fall to zero. Box 5, the last, takes the place of 1, box 4 that of 2, and both come before box 3,
    # although all three have the same score.
    boxes = torch.tensor([[0.0, 0, 4, 4]] * 3 + [[10, 0, 14, 4], [20, 0, 24, 4], [30, 0, 34, 4]])
    _, keep = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.8, 0.5, 0.5, 0.5]), iou_threshold=0.5)
    assert keep.tolist() == [0, 5, 4, 3]


def test_nms_match_groups_suppressed_boxes_with_their_suppressor():
    boxes = [[0, 0, 10, 1], [0, 0, 5, 1], [20, 0, 30, 1], [20, 0, 26, 1], [20, 0, 24, 1]]
    dets = torch.tensor(boxes, dtype=torch.float32)
    # IoU of 3 with 2 is 6 / 10 and with 4 is 4 / 6; that of 0 with 1 is the threshold.
    dets = torch.cat((dets, torch.tensor([[0.5], [0.4], [0.7], [0.8], [0.1]])), dim=1)
    groups = nms_match(dets, 0.5)
    assert [group.tolist() for group in groups] == [[3, 2, 4], [0, 1]]


@pytest.mark.parametrize(
    ("mode", "offset", "expected"),
    [
        ("iou", 0, [[25 / 225, 1], [50 / 200, 0]]),
        ("iof", 0, [[25 / 100, 1], [50 / 100, 0]]),
        ("iou", 1, [[36 / 261, 1], [66 / 231, 1 / 241]]),
        ("iof", 1, [[36 / 121, 1], [66 / 121, 1 / 121]]),
    ],
)
def test_bbox_overlaps_equal_arithmetic_by_hand(mode, offset, expected, device):
    first = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20]], device=device)
    second = torch.tensor([[5.0, 5, 15, 20], [0, 0, 10, 10]], device=device)
    expected = torch.tensor(expected)
    torch.testing.assert_close(bbox_overlaps(first, second, mode, offset=offset).cpu(), expected)
    aligned = bbox_overlaps(first, second, mode, aligned=True, offset=offset)
    torch.testing.assert_close(aligned.cpu(), expected.diagonal())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_bbox_overlaps_take_all_floats(dtype, device):
    first = torch.tensor([[0, 0, 1024, 1024]], dtype=dtype, device=device)
    overlaps = bbox_overlaps(first, torch.tensor([[0, 0, 1024, 512]], dtype=dtype, device=device))
    assert overlaps.tolist() == [[0.5]]
    assert overlaps.dtype == dtype


def test_bbox_overlaps_of_no_boxes_are_empty():
    assert bbox_overlaps(torch.empty(0, 4), torch.ones(3, 4)).shape == (0, 3)
