"""Boxes from the outputs of detection heads, as operators that torch exports: sizes are symbols, no loop reads a value.

Results are those of mmdet's heads, for a batch: candidates are chosen per level, suppressed per class and cut to a
number. What is padded has the score -1.

Letters: N images, K candidates per image, M candidates of all images, n results per image, C classes.

Source: mmdet 3.3.0, models/dense_heads/base_dense_head.py and rpn_head.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from convnext_dense.errors import UserError

PADDED = -1.0
SUPPORTED = (
    "detectors that can be are Faster, Mask and Cascade R-CNN, DINO, Deformable DETR, and one-stage detectors whose "
    "boxes come from mmdet's BaseDenseHead (RetinaNet, FCOS, ATSS, RTMDet)"
)


class Candidates(NamedTuple):
    """Boxes (N, K, 4) as x1, y1, x2, y2, scores (N, K) and groups (N, K) of boxes that suppress each other."""

    boxes: Tensor
    scores: Tensor
    groups: Tensor


class Results(NamedTuple):
    """The best boxes (N, n, 4), their scores (N, n), PADDED beyond what was found, and their groups (N, n)."""

    boxes: Tensor
    scores: Tensor
    groups: Tensor


def check_dense_head(head: Any) -> None:
    """Check a one-stage head, see ``check_detector``."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    kind = type(head)
    for name in ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process"):
        if getattr(kind, name, None) is not getattr(BaseDenseHead, name):
            raise UserError(f"The head {kind.__name__} cannot be exported: {SUPPORTED}.")
    if head.test_cfg.get("min_bbox_size", 0) > 0:
        raise UserError(
            "model.test_cfg.min_bbox_size above 0 is in pixels of the image, which an exported graph does not know."
        )
    check_nms(head.test_cfg.get("nms"), "test_cfg.nms")


def check_proposals(head: Any) -> None:
    """Check a head for proposals, see ``check_detector``."""
    from mmdet.models.dense_heads import RPNHead

    kind = type(head)
    for name in ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process"):
        if getattr(kind, name, None) is not getattr(RPNHead, name):
            raise UserError(f"The proposal head {kind.__name__} cannot be exported: {SUPPORTED}.")
    check_nms(head.test_cfg.get("nms"), "test_cfg.rpn.nms")


def check_nms(config: Any, name: str) -> None:
    """Check that suppression is the one that the graph computes.

    Raises:
        UserError: It is another one.
    """
    kind = (config or {}).get("type")
    if kind != "nms" or config.get("class_agnostic") or config.get("max_num", 0) > 0:
        what = f"NMS of the type {kind!r}"
        if kind == "nms":
            agnostic = config.get("class_agnostic")
            what = "class-agnostic NMS" if agnostic else f"NMS of at most {config.max_num} objects"
        raise UserError(
            f"{what} (model.{name}) cannot be exported: exported graphs suppress per class with type='nms'. Test the "
            f"model with --cfg-options model.{name}.type=nms; if that is as good, export it with the same option."
        )


def best_of_level(scores: Tensor, number: int, *fields: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return the best entries of a level.

    Args:
        scores: (N, P, C) of P priors.
        number: Largest number of entries; below 1 for all.
        *fields: (N, P, ...) or, if they are the same for all images, (1, P, ...).

    Returns:
        Scores (N, K), classes (N, K), and the fields of their priors (N, K, ...).
    """
    num_images, num_priors, num_classes = scores.shape
    flat = scores.flatten(1)
    total = num_priors * num_classes
    kept = total if number < 1 else torch.sym_min(total, number)
    values, places = flat.topk(kept)
    priors = places // num_classes
    images = torch.arange(num_images, device=scores.device)[:, None]
    return (
        values,
        places % num_classes,
        tuple(field[images if field.shape[0] != 1 else torch.zeros_like(images), priors] for field in fields),
    )


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes (..., 4) to images of the sizes (..., 2), (height, width)."""
    limits = sizes.flip(-1)
    return boxes.clamp(min=0).minimum(torch.cat([limits, limits], -1))


def suppress(candidates: Candidates, *, score_thr: float, iou_threshold: float, number: int, extent: Any) -> Results:
    """Return the best boxes that do not overlap a better one of their group by more than ``iou_threshold``.

    Args:
        candidates: See ``Candidates``.
        score_thr: Candidates must be above.
        iou_threshold: Intersection over union.
        number: n.
        extent: A bound of all coordinates, by which groups are moved apart.
    """
    boxes, scores, groups = candidates
    image, place = (scores > score_thr).nonzero().unbind(1)
    apart = (groups[image, place] + image * (groups.max() + 1)).to(boxes.dtype) * (extent + 1)
    kept = nms(boxes[image, place] + apart[:, None], scores[image, place], iou_threshold)
    image, place = image[kept], place[kept]
    left = torch.full_like(scores, PADDED).index_put((image, place), scores[image, place])
    return best(Candidates(boxes, left, groups), number)


def best(candidates: Candidates, number: int) -> Results:
    """Return the n best candidates, padded if there are fewer."""
    boxes, scores, groups = candidates
    padding = scores.new_full((scores.shape[0], number), PADDED)
    values, places = torch.cat([scores, padding], 1).topk(number)
    places = places.clamp(max=scores.shape[1] - 1)
    found = boxes.gather(1, places[..., None].expand(-1, -1, 4))
    return Results(found, values, groups.gather(1, places))


def activated(head: Any, scores: Tensor) -> Tensor:
    """Return the probabilities (..., C) of a dense head's outputs (..., C or C + 1)."""
    return scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]


def by_prior(output: Tensor, width: int) -> Tensor:
    """Return an output (N, priors x width, H, W) of a dense head as (N, P, width)."""
    return output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, width)


def run_dense_head(head: Any, features: Sequence[Tensor], sizes: Tensor, extent: Any, test_cfg: Any) -> Results:
    """Run a head of mmdet whose results are those of ``BaseDenseHead``, with NMS per class."""
    outputs = head(features)
    scores, boxes, factors = outputs if len(outputs) == 3 else (*outputs, [None] * len(outputs[0]))
    priors = priors_of(head, scores)
    levels = []
    for level_scores, level_boxes, level_factors, level_priors in zip(scores, boxes, factors, priors, strict=True):
        fields = [by_prior(level_boxes, head.bbox_coder.encode_size), level_priors[None]]
        if level_factors is not None:
            fields.append(by_prior(level_factors, 1).sigmoid())
        probs = activated(head, by_prior(level_scores, head.cls_out_channels))
        values, classes, (deltas, anchors, *rest) = best_of_level(probs, test_cfg.get("nms_pre", -1), *fields)
        decoded = decode(head.bbox_coder, anchors, deltas)
        values = torch.where(values > test_cfg.get("score_thr", 0), values, PADDED)
        if rest:
            values = torch.where(values > 0, values * rest[0][..., 0], PADDED)
        levels.append(Candidates(decoded, values, classes))
    merged = Candidates(*(torch.cat(parts, 1) for parts in zip(*levels, strict=True)))
    return suppress(
        _clipped(head, merged, sizes, test_cfg),
        score_thr=0.0,
        iou_threshold=test_cfg.nms.iou_threshold,
        number=test_cfg.max_per_img,
        extent=extent,
    )


def run_rpn(head: Any, features: Sequence[Tensor], sizes: Tensor, extent: Any, test_cfg: Any) -> Results:
    """Run mmdet's ``RPNHead``: NMS per level."""
    scores, boxes = head(features)
    levels = []
    for number, (level_scores, level_boxes, priors) in enumerate(
        zip(scores, boxes, priors_of(head, scores), strict=True)
    ):
        probs = activated(head, by_prior(level_scores, head.cls_out_channels))
        deltas = by_prior(level_boxes, head.bbox_coder.encode_size)
        values, classes, (deltas, anchors) = best_of_level(probs, test_cfg.get("nms_pre", -1), deltas, priors[None])
        levels.append(Candidates(decode(head.bbox_coder, anchors, deltas), values, torch.full_like(classes, number)))
    merged = Candidates(*(torch.cat(parts, 1) for parts in zip(*levels, strict=True)))
    return suppress(
        _clipped(head, merged, sizes, test_cfg),
        score_thr=PADDED,
        iou_threshold=test_cfg.nms.iou_threshold,
        number=test_cfg.max_per_img,
        extent=extent,
    )


def _clipped(head: Any, candidates: Candidates, sizes: Tensor, test_cfg: Any) -> Candidates:
    """Clip boxes to the images, and drop those that are too small then."""
    boxes, scores = candidates.boxes, candidates.scores
    if head.bbox_coder.clip_border:
        boxes = clip(boxes, sizes[:, None])
    smallest = test_cfg.get("min_bbox_size", -1)
    if smallest >= 0:
        width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
        scores = torch.where((width > smallest) & (height > smallest), scores, PADDED)
    return Candidates(boxes, scores, candidates.groups)


def priors_of(head: Any, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the priors of each level, (P, 4) or (P, 2)."""
    sizes = [output.shape[-2:] for output in outputs]
    return head.prior_generator.grid_priors(sizes, dtype=outputs[0].dtype, device=outputs[0].device)


def decode(coder: Any, priors: Tensor, deltas: Tensor) -> Tensor:
    """Decode deltas (N, K, 4) of priors (N, K, 4 or 2) into boxes (N, K, 4), which are not clipped."""
    return coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1)).view(*deltas.shape[:2], 4)
