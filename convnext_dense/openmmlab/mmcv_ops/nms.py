"""Box overlaps and non-maximum suppression.

Letters: N boxes, M and K boxes of two sets. A box is (x1, y1, x2, y2); with ``offset`` 1 its width is x2 - x1 + 1.

Source: https://github.com/open-mmlab/mmcv/tree/v2.1.0/mmcv/ops/csrc/pytorch/cpu (nms.cpp, bbox_overlaps_cpu.cpp)
and https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/common/cuda/nms_cuda_kernel.cuh

Differs: float64, half and bfloat16 boxes are accepted everywhere (the compiled operators require float32; half and
bfloat16 are computed in float32).
"""

import torch
import torchvision  # noqa: F401 (registers torch.ops.torchvision)
from torch import Tensor

from convnext_dense.openmmlab.mmcv_ops.precision import widen

_NAIVE, _LINEAR, _GAUSSIAN = 0, 1, 2  # soft_nms's `method`, as mmcv/ops/nms.py numbers it
_IOU, _IOF = 0, 1  # bbox_overlaps's `mode`, as mmcv/ops/bbox.py numbers it


def _areas(boxes: Tensor, offset: int) -> Tensor:
    size = boxes[..., 2:] - boxes[..., :2] + offset
    return size[..., 0] * size[..., 1]


def _overlaps(boxes1: Tensor, boxes2: Tensor, offset: int, mode: int = _IOU) -> Tensor:
    """Return the intersection over union, or over the area of ``boxes1``, of two broadcastable sets (..., 4)."""
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    bottom_right = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    size = (bottom_right - top_left + offset).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    if mode == _IOF:
        return intersection / _areas(boxes1, offset)
    return intersection / (_areas(boxes1, offset) + _areas(boxes2, offset) - intersection)


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Write the overlaps of two sets of boxes into ``ious``.

    Args:
        bboxes1: (M, 4).
        bboxes2: (K, 4); K = M where ``aligned``.
        ious: (M, K), or (M,) where ``aligned``; overwritten.
        mode: 0 for intersection over union, 1 for intersection over the area of ``bboxes1``.
        aligned: Whether box i is only compared with box i.
        offset: 0 or 1.
    """
    boxes1, boxes2 = widen(bboxes1, bboxes2)
    ious.copy_(_overlaps(boxes1 if aligned else boxes1[:, None], boxes2, offset, mode))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices (long) of the boxes that remain after suppressing overlaps of more than ``iou_threshold``.

    Args:
        boxes: (N, 4).
        scores: (N,). The indices come in descending order of score; equal scores keep their order.
        iou_threshold: Compared in single precision, as in the compiled operators: an IoU of exactly 0.3 does not exceed
            a threshold of 0.3.
        offset: 0 or 1.
    """
    boxes, scores = widen(boxes, scores)
    if boxes.dtype == torch.float32:
        iou_threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    if offset:
        # A box that ends at x2 + 1 has the width x2 - x1 + 1, and intersections grow in the same way.
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torch.ops.torchvision.nms(boxes, scores, iou_threshold)


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    """Return the factor on the score of a box that overlaps a higher-scoring one by ``iou``."""
    if method == _GAUSSIAN:
        return torch.exp(-(iou * iou) / sigma)
    suppressed = 1 - iou if method == _LINEAR else torch.zeros_like(iou)
    return torch.where(iou >= iou_threshold, suppressed, torch.ones_like(iou))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of overlapping boxes, and return the indices of the remaining boxes, best first.

    mmcv calls it with CPU tensors only. The boxes are swapped exactly as in the compiled operator, which determines the
    order of equal scores.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5); the remaining boxes and their new scores are written into its first rows.
        iou_threshold: Overlap from which the methods naive and linear lower a score.
        sigma: Width of the method gaussian.
        min_score: A box whose score falls below it is dropped.
        method: 0 naive, 1 linear, 2 gaussian.
        offset: 0 or 1.
    """
    boxes, scores = widen(boxes, scores)
    table = torch.cat((boxes, scores[:, None]), dim=1)
    indices = torch.arange(len(table), device=table.device)
    position, count = 0, len(table)
    while position < count:
        best = position + int(table[position:count, 4].argmax())
        if best != position:
            for column in (table, indices):
                column[[position, best]] = column[[best, position]]
        rest, rest_indices = table[position + 1 : count], indices[position + 1 : count]
        iou = _overlaps(table[position, :4], rest[:, :4], offset)
        rest[:, 4] *= _decay(iou, iou_threshold, sigma, method)
        dropped = rest[:, 4] < min_score
        kept = (~dropped).nonzero().squeeze(1)
        # The last remaining box takes the place of a dropped one.
        holes = dropped[: len(kept)].nonzero().squeeze(1)
        fillers = kept[len(kept) - len(holes) :].flip(0)
        rest[holes], rest_indices[holes] = rest[fillers], rest_indices[fillers]
        position += 1
        count = position + len(kept)
    dets[:count] = table[:count]
    return indices[:count]


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return the index of every remaining box and those of the boxes that it suppresses, in order of score.

    Args:
        dets: (N, 5), boxes and scores.
        iou_threshold: Overlap from which a box is suppressed (in :func:`nms` it must exceed the threshold).
    """
    (dets,) = widen(dets)
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(order):
        best, rest = order[:1], order[1:]
        suppressed = _overlaps(dets[best, :4], dets[rest, :4], offset=0) >= iou_threshold
        groups.append(torch.cat((best, rest[suppressed])).tolist())
        order = rest[~suppressed]
    return groups


OPERATORS = {"bbox_overlaps": bbox_overlaps, "nms": nms, "nms_match": nms_match, "softnms": softnms}
