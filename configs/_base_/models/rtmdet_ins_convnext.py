"""RTMDet-Ins-l's neck and head, with masks, on ConvNeXt: the differences from `rtmdet_convnext.py`.

The training pipeline loads masks too; polygons may stay polygons (`poly2mask=False` of `LoadAnnotations`).

Source: configs/rtmdet/rtmdet-ins_l_8xb32-300e_coco.py of mmdet 3.3.0
Differs: group norm as in mmdet's RTMDet on ConvNeXt, which has no masks; nothing is published for this combination.
"""

_base_ = "rtmdet_convnext.py"

model = dict(
    data_preprocessor=dict(pad_mask=True),
    bbox_head=dict(
        _delete_=True,  # it takes other arguments than the head without masks
        type="RTMDetInsSepBNHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=2,
        feat_channels=256,
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        share_conv=True,
        pred_kernel_size=1,
        norm_cfg=dict(type="GN", num_groups=32),
        act_cfg=dict(type="SiLU", inplace=True),
        loss_mask=dict(type="DiceLoss", loss_weight=2.0, eps=5e-6, reduction="mean"),
    ),
    test_cfg=dict(
        nms_pre=1000, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100, mask_thr_binary=0.5
    ),
)
