"""mmdet's RoI heads for data in which only some objects have masks.

Boxes and classes are learnt from all objects, masks from those that have one. An object without a mask comes with a
mask of no pixel. Parameters have the names that they have in mmdet: checkpoints fit both.

Source: ``StandardRoIHead`` and ``CascadeRoIHead`` of mmdet 3.3.
Differs: RoIs of objects whose mask has no pixel have no mask loss; in mmdet they learn that nothing is there. This also
holds for the few objects of whose mask an augmentation leaves no pixel.

This module imports mmdet, so configs name it in ``custom_imports``.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead as MMDetCascadeRoIHead
from mmdet.models.roi_heads import StandardRoIHead as MMDetStandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor

from convnext_dense.registry import MODELS

# What a sampling result has of each positive RoI.
_OF_POSITIVES = ("pos_inds", "pos_priors", "pos_is_gt", "pos_assigned_gt_inds", "pos_gt_labels", "pos_gt_bboxes")


@MODELS.register_module()
class StandardRoIHead(MMDetStandardRoIHead):
    """mmdet's ``StandardRoIHead``, whose mask loss leaves out objects without a mask."""

    def mask_loss(
        self,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        bbox_feats: Tensor,
        batch_gt_instances: list[InstanceData],
    ) -> dict[str, Any]:
        """Return what mmdet's head returns, of the RoIs of objects that have a mask."""
        kept = [_with_mask(result, truth) for result, truth in zip(sampling_results, batch_gt_instances, strict=True)]
        if self.share_roi_extractor and any(keep is not None for keep in kept):
            bbox_feats = bbox_feats[torch.cat([_rows(*pair) for pair in zip(sampling_results, kept, strict=True)])]
        return super().mask_loss(x, _picked(sampling_results, kept), bbox_feats, batch_gt_instances)


@MODELS.register_module()
class CascadeRoIHead(MMDetCascadeRoIHead):
    """mmdet's ``CascadeRoIHead``, whose mask losses leave out objects without a mask."""

    def mask_loss(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        batch_gt_instances: list[InstanceData],
    ) -> dict[str, Any]:
        """Return what mmdet's head returns, of the RoIs of objects that have a mask."""
        kept = [_with_mask(result, truth) for result, truth in zip(sampling_results, batch_gt_instances, strict=True)]
        return super().mask_loss(stage, x, _picked(sampling_results, kept), batch_gt_instances)


def _with_mask(result: SamplingResult, truth: InstanceData) -> Tensor | None:
    """Return which positive RoIs belong to an object with a mask; None if all objects of the image have one."""
    masks = truth.masks
    if isinstance(masks, BitmapMasks):
        has_mask = masks.masks.reshape(len(masks), -1).max(axis=1, initial=0) > 0
    else:
        has_mask = masks.areas > 0
    if has_mask.all():
        return None
    return torch.as_tensor(has_mask, device=result.pos_assigned_gt_inds.device)[result.pos_assigned_gt_inds]


def _picked(results: Sequence[SamplingResult], kept: Sequence[Tensor | None]) -> list[SamplingResult]:
    """Return sampling results of some of their positive RoIs."""
    picked = []
    for result, keep in zip(results, kept, strict=True):
        if keep is not None:
            result = copy.copy(result)
            for name in _OF_POSITIVES:
                setattr(result, name, getattr(result, name)[keep])
        picked.append(result)
    return picked


def _rows(result: SamplingResult, keep: Tensor | None) -> Tensor:
    """Return which RoIs of an image, first the positive ones, are left; negative ones have no mask loss anyway."""
    num_positive, num_negative = len(result.pos_priors), len(result.neg_priors)
    keep = keep if keep is not None else result.pos_inds.new_ones(num_positive, dtype=torch.bool)
    return torch.cat([keep, keep.new_ones(num_negative)])
