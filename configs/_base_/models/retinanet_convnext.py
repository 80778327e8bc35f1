"""RetinaNet with a feature pyramid on ConvNeXt, for the 80 COCO classes, with the widths of ConvNeXt-T and -S.

A leaf sets `arch`, `drop_path_rate`, the weights and, from B upwards, the pyramid's `in_channels`. Nothing is published
for RetinaNet on ConvNeXt.

Source: configs/_base_/models/retinanet_r50_fpn.py of mmdet 3.3.0
Differs: the backbone does not compute and normalise the map of stride 4 for the pyramid, which does not use it.
"""

default_scope = "mmdet"
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])

model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        # ImageNet's mean and standard deviation times 255, as in pre-training.
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,  # the deepest stage has stride 32
    ),
    backbone=dict(
        type="convnext_dense.ConvNeXt",
        arch="tiny",
        out_indices=(1, 2, 3),
        output_norms="all",
        # Loaded weights replace it with the trained gamma; a run from random weights starts with 1.
        layer_scale_init_value=1.0,
    ),
    neck=dict(
        type="FPN", in_channels=[192, 384, 768], out_channels=256, start_level=0, add_extra_convs="on_input", num_outs=5
    ),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"),  # focal loss uses every anchor
        allowed_border=-1,  # anchors may extend beyond the image by any distance
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100
    ),
)
