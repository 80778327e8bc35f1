"""Box and mask heads on proposals, as operators that torch exports.

Letters: N images, R proposals of all images, C classes, n results per image, m results that are no padding.

Source: mmdet 3.3.0, models/roi_heads/{standard,cascade}_roi_head.py, bbox_heads/bbox_head.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from convnext_dense.errors import UserError
from convnext_dense.export.boxes import PADDED, Candidates, Results, check_nms, clip, suppress

# Methods that decide on the results; a head that has its own computes something else.
_OF_ROI_HEADS = ("predict", "predict_bbox", "predict_mask", "_bbox_forward", "_mask_forward")
_OF_PARTS = ("predict_by_feat", "_predict_by_feat_single")


def check_roi_head(head: Any) -> None:
    """Check that the results of a head on proposals are those that the graph computes.

    Raises:
        UserError: A part of it does something else.
    """
    from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
    from mmdet.models.roi_heads.bbox_heads import BBoxHead
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    base = CascadeRoIHead if isinstance(head, CascadeRoIHead) else StandardRoIHead
    _check_same(head, base, _OF_ROI_HEADS)
    if getattr(head, "with_shared_head", False):
        raise UserError(f"{type(head).__name__} with a shared_head cannot be exported.")
    for part in _parts(head, "bbox_head"):
        _check_same(part, BBoxHead, _OF_PARTS)
        if part.custom_cls_channels or not part.with_reg:
            raise UserError(f"{type(part).__name__} with classes or boxes of its own kind cannot be exported.")
    for part in _parts(head, "mask_head"):
        _check_same(part, FCNMaskHead, _OF_PARTS)
    for part in (*_parts(head, "bbox_roi_extractor"), *_parts(head, "mask_roi_extractor")):
        _check_same(part, SingleRoIExtractor, ("forward", "map_roi_levels"))
        if {type(layer).__name__ for layer in part.roi_layers} != {"RoIAlign"} or part.roi_layers[0].pool_mode != "avg":
            raise UserError(
                "Regions are cut out by RoIAlign with pool_mode='avg' in exported graphs, and by nothing else."
            )
    if head.test_cfg.get("mask_thr_binary", 0.5) < 0:
        raise UserError(
            "model.test_cfg.rcnn.mask_thr_binary below 0 asks for soft masks: exported models give binary ones."
        )
    check_nms(head.test_cfg.get("nms"), "test_cfg.rcnn.nms")


def _check_same(part: Any, base: type, names: Sequence[str]) -> None:
    for name in names:
        if getattr(type(part), name, None) is not getattr(base, name):
            raise UserError(
                f"{type(part).__name__} cannot be exported: its results are not those of mmdet's {base.__name__}."
            )


def _parts(head: Any, name: str) -> list[Any]:
    part = getattr(head, name, None)
    if part is None:
        return []
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def extract(extractor: Any, features: Sequence[Tensor], rois: Tensor) -> Tensor:
    """Return the features (R, channels, S, S) of regions (R, 5): image, x1, y1, x2, y2."""
    features = features[: extractor.num_inputs]
    levels = extractor.map_roi_levels(rois, len(features))
    side = extractor.roi_layers[0].output_size
    cut = features[0].new_zeros((rois.shape[0], features[0].shape[1], *side))
    for number, (layer, feature) in enumerate(zip(extractor.roi_layers, features, strict=True)):
        chosen = (levels == number).nonzero()[:, 0]
        regions = roi_align(
            feature, rois[chosen], layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
        )
        cut = cut.index_put((chosen,), regions)
    return cut


def to_rois(results: Results) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is no padding as regions (m, 5), and the image and the place of each."""
    image, place = (results.scores > PADDED).nonzero().unbind(1)
    boxes = results.boxes[image, place]
    return torch.cat([image[:, None].to(boxes.dtype), boxes], 1), image, place


def run_roi_head(
    head: Any, features: Sequence[Tensor], proposals: Results, sizes: Tensor, extent: Any
) -> tuple[Results, Tensor | None]:
    """Run a ``StandardRoIHead`` or a ``CascadeRoIHead`` of mmdet.

    Returns:
        The boxes, and the masks (N, n, S, S) as probabilities, if the head has masks.
    """
    stages = _parts(head, "bbox_head")
    extractors = _per_stage(head, "bbox_roi_extractor", len(stages))
    rois, image, _ = to_rois(proposals)
    total: Any = 0
    deltas = rois
    for number, (stage, extractor) in enumerate(zip(stages, extractors, strict=True)):
        scores, deltas = stage(extract(extractor, features, rois))
        total = total + scores
        if number < len(stages) - 1:
            labels = scores[:, :-1].argmax(1)
            rois = torch.cat([rois[:, :1], _of_class(stage, rois, deltas, labels, sizes[image])], 1)
    probs = (total / len(stages)).softmax(-1)[:, :-1]
    boxes = _decode(stages[-1], rois, deltas, sizes[image])  # (R, 1 or C, 4)
    cfg = head.test_cfg
    results = _best_per_image(boxes, probs, image, sizes.shape[0], cfg, extent)
    if not head.with_mask:
        return results, None
    return results, _run_masks(head, features, results)


def _best_per_image(boxes: Tensor, probs: Tensor, image: Tensor, num_images: int, cfg: Any, extent: Any) -> Results:
    num_classes = probs.shape[1]
    boxes = boxes.expand(-1, num_classes, 4).reshape(1, -1, 4).expand(num_images, -1, -1)
    owner = image[:, None].expand(-1, num_classes).reshape(1, -1)
    own = owner == torch.arange(num_images, device=image.device)[:, None]
    scores = torch.where(own, probs.reshape(1, -1), PADDED)
    labels = torch.arange(num_classes, device=image.device).expand(probs.shape[0], -1).reshape(1, -1)
    return suppress(
        Candidates(boxes, scores, labels.expand(num_images, -1)),
        score_thr=cfg.score_thr,
        iou_threshold=cfg.nms.iou_threshold,
        number=cfg.max_per_img,
        extent=extent,
    )


def _run_masks(head: Any, features: Sequence[Tensor], results: Results) -> Tensor:
    heads = _parts(head, "mask_head")
    extractors = _per_stage(head, "mask_roi_extractor", len(heads))
    rois, image, place = to_rois(results)
    labels = results.groups[image, place]
    each = torch.arange(rois.shape[0], device=rois.device)
    total: Any = 0
    for mask_head, cutter in zip(heads, extractors, strict=True):
        logits = mask_head(extract(cutter, features, rois))
        chosen = logits[:, 0] if mask_head.class_agnostic else logits[each, labels]
        total = total + chosen.sigmoid()
    masks = total / len(heads)
    empty = masks.new_zeros((*results.scores.shape, *masks.shape[1:]))
    return empty.index_put((image, place), masks)


def _per_stage(head: Any, name: str, number: int) -> list[Any]:
    extractors = _parts(head, name)
    return extractors * number if len(extractors) == 1 else extractors


def _decode(stage: Any, rois: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
    """Return boxes (R, 1 or C, 4)."""
    # A row more, which is dropped again: the coder asks whether there is any, and a captured graph cannot tell.
    rows = (torch.cat([tensor, tensor.new_zeros((1, tensor.shape[1]))]) for tensor in (rois[:, 1:], deltas))
    boxes = stage.bbox_coder.decode(*rows)[:-1].view(rois.shape[0], -1, stage.bbox_coder.encode_size)
    return clip(boxes, sizes[:, None]) if stage.bbox_coder.clip_border else boxes


def _of_class(stage: Any, rois: Tensor, deltas: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    boxes = _decode(stage, rois, deltas, sizes)
    if stage.reg_class_agnostic:
        return boxes[:, 0]
    return boxes.gather(1, labels[:, None, None].expand(-1, -1, 4))[:, 0]
