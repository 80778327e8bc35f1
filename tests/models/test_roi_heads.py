"""RoI heads that learn masks from the objects that have one, held against mmdet's own heads with the same weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import convnext_dense.models.roi_heads  # noqa: F401  registers the heads

SIDE = 64
KINDS = ["StandardRoIHead", "CascadeRoIHead"]
BOXES = {"first": [4.0, 4, 28, 30], "second": [34.0, 30, 60, 58]}
EXTRACTOR = dict(
    type="SingleRoIExtractor",
    roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
    out_channels=8,
    featmap_strides=[4, 8],
)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmdet")


def build(kind, *, shares=False):
    def box_head(std):
        coder = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[std] * 4)
        return dict(
            type="Shared2FCBBoxHead",
            in_channels=8,
            fc_out_channels=16,
            roi_feat_size=7,
            num_classes=3,
            bbox_coder=coder,
        )

    def train_cfg(threshold):
        return dict(
            assigner=dict(type="MaxIoUAssigner", pos_iou_thr=threshold, neg_iou_thr=threshold, min_pos_iou=threshold),
            sampler=dict(type="RandomSampler", num=512, pos_fraction=1.0, add_gt_as_proposals=True),
            mask_size=14,
            pos_weight=-1,
        )

    mask = dict(type="FCNMaskHead", num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3)
    mask["loss_mask"] = dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0)
    config = dict(type=kind, bbox_roi_extractor=EXTRACTOR, mask_head=mask)
    config["mask_roi_extractor"] = None if shares else EXTRACTOR
    if kind.endswith("CascadeRoIHead"):
        config |= dict(num_stages=2, stage_loss_weights=[1, 0.5], bbox_head=[box_head(0.1), box_head(0.05)])
        config["train_cfg"] = [train_cfg(0.5), train_cfg(0.5)]
    else:
        config |= dict(bbox_head=box_head(0.1), train_cfg=train_cfg(0.5))
    return MODELS.build(ConfigDict(config))


def pair(kind, **kwargs):
    """Return mmdet's head and ours, with the same random weights."""
    torch.manual_seed(0)
    theirs, ours = build(f"mmdet.{kind}", **kwargs), build(f"convnext_dense.{kind}", **kwargs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert type(ours) is not type(theirs)
    return theirs, ours


def masks_of(names, unmasked, kind):
    """A square in the middle of each box, or nothing."""
    if kind == "polygons":
        found = []
        for name in names:
            x1, y1, x2, y2 = BOXES[name]
            corners = [x1 + 5, y1 + 5, x2 - 5, y1 + 5, x2 - 5, y2 - 5, x1 + 5, y2 - 5]
            found.append([np.zeros(6) if name in unmasked else np.array(corners)])
        return PolygonMasks(found, SIDE, SIDE)
    found = np.zeros((len(names), SIDE, SIDE), np.uint8)
    for number, name in enumerate(names):
        if name not in unmasked:
            x1, y1, x2, y2 = map(int, BOXES[name])
            found[number, y1 + 5 : y2 - 5, x1 + 5 : x2 - 5] = 1
    return BitmapMasks(found, SIDE, SIDE)


def sample(names, unmasked=(), kind="bitmaps"):
    boxes = torch.tensor([BOXES[name] for name in names]).reshape(-1, 4)
    labels = torch.tensor([list(BOXES).index(name) for name in names])
    truth = InstanceData(bboxes=boxes, labels=labels, masks=masks_of(names, unmasked, kind))
    return DetDataSample(gt_instances=truth, metainfo=dict(img_shape=(SIDE, SIDE)))


def losses(head, features, samples):
    """Proposals are shifted copies of both boxes, and places without an object."""
    shifts = torch.tensor([[0.0, 0, 0, 0], [1, 2, 1, 2], [-2, 1, -1, 2]])
    near = [torch.tensor(box) + shifts for box in BOXES.values()]
    proposals = torch.cat([*near, torch.tensor([[0.0, 40, 20, 60], [40, 0, 60, 20]])])
    results = [InstanceData(bboxes=proposals.clone(), scores=torch.ones(len(proposals))) for _ in samples]
    torch.manual_seed(1)
    np.random.seed(1)
    head.zero_grad()
    found = head.loss(tuple(features), results, deepcopy(samples))
    sum(value.sum() for name, value in found.items() if "loss" in name).backward()
    return {name: value.detach().clone() for name, value in found.items()}


def features(num_images):
    rng = torch.Generator().manual_seed(2)
    one = [torch.randn(1, 8, SIDE // stride, SIDE // stride, generator=rng) for stride in (4, 8)]
    return [level.repeat(num_images, 1, 1, 1) for level in one]


def gradients(head):
    return {name: parameter.grad for name, parameter in head.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masks", ["bitmaps", "polygons"])
def test_with_all_masks_losses_and_gradients_are_those_of_mmdet(kind, masks):
    theirs, ours = pair(kind)
    samples = [sample(["first", "second"], kind=masks), sample(["second"], kind=masks)]
    expected, found = losses(theirs, features(2), samples), losses(ours, features(2), samples)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(value, gradients(theirs)[name]) for name, value in gradients(ours).items())
    assert any(value.sum() > 0 for name, value in expected.items() if "loss_mask" in name)


@pytest.mark.parametrize(
    ("kind", "masks", "shares"),
    [(kind, masks, False) for kind in KINDS for masks in ("bitmaps", "polygons")]
    + [("StandardRoIHead", "bitmaps", True)],
)
def test_mask_loss_is_that_of_mmdet_on_the_objects_with_masks_alone(kind, masks, shares):
    """The mask loss is a mean over RoIs: mmdet's own loss of a batch without the other object has the same RoIs."""
    theirs, ours = pair(kind, shares=shares)
    together = [sample(["first", "second"], unmasked=["second"], kind=masks)]
    apart = [sample(["first"], kind=masks), sample(["second"], unmasked=["second"], kind=masks)]
    with_mask_alone = losses(theirs, features(1), [sample(["first"], kind=masks)])
    stages = ["s0.", "s1."] if kind == "CascadeRoIHead" else [""]
    for samples in (together, apart):
        found = losses(ours, features(len(samples)), samples)
        boxes = losses(theirs, features(len(samples)), samples)
        for stage in stages:
            for name in (f"{stage}loss_cls", f"{stage}loss_bbox"):  # learnt from both objects
                torch.testing.assert_close(found[name], boxes[name])
        # The first stage has the same RoIs; the boxes of the second one are refined by the same weights.
        for stage in stages:
            mask = f"{stage}loss_mask"
            torch.testing.assert_close(found[mask], with_mask_alone[mask])
            assert (found[mask] - boxes[mask]).abs() > 1e-3  # mmdet learns that the second object has no pixel


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masks", ["bitmaps", "polygons"])
def test_without_any_mask_the_loss_and_all_gradients_of_the_mask_head_are_zero(kind, masks):
    """Every parameter has a gradient, which DistributedDataParallel waits for."""
    _, ours = pair(kind)
    samples = [sample(["first", "second"], ["first", "second"], masks), sample(["second"], ["second"], masks)]
    found = losses(ours, features(2), samples)
    for name, value in found.items():
        if "loss_mask" in name:
            assert value.sum() == 0
    of_masks = {name: value for name, value in gradients(ours).items() if "mask_head" in name}
    assert of_masks
    assert all(value is not None and not value.any() for value in of_masks.values())
    assert all(value.isfinite().all() for value in gradients(ours).values())


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_mmdet(kind):
    theirs, ours = pair(kind)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict(), strict=True)
