"""DINO with four scales on ConvNeXt, for the 80 COCO classes, with the widths of ConvNeXt-T and -S.

A leaf sets `arch`, the weights and, from B upwards, the neck's `in_channels`.

Source: https://github.com/IDEA-Research/detrex/tree/e244e6c3/projects/dino/configs/models/dino_convnext.py, dino_r50.py
Differs: the detector is mmdet 3.3's DINO. Its parameters, queries, denoising, losses, matching costs and position
embedding are set to detrex' values; mmdet's own config has another position embedding and no biases in the neck.
8-bit BGR input is normalised by the data preprocessor.
"""

default_scope = "mmdet"
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])

model = dict(
    type="DINO",
    num_queries=900,
    with_box_refine=True,
    as_two_stage=True,
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        # ImageNet's mean and standard deviation times 255, as in pre-training.
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1,
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
        type="ChannelMapper",
        in_channels=[192, 384, 768],
        kernel_size=1,
        out_channels=256,
        act_cfg=None,
        norm_cfg=dict(type="GN", num_groups=32),
        bias=True,
        num_outs=4,  # the fourth, of stride 64, is a 3x3 convolution of the last map of the backbone
    ),
    encoder=dict(
        num_layers=6,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_levels=4, dropout=0.0),
            ffn_cfg=dict(embed_dims=256, feedforward_channels=2048, ffn_drop=0.0),
        ),
    ),
    decoder=dict(
        num_layers=6,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.0),
            cross_attn_cfg=dict(embed_dims=256, num_levels=4, dropout=0.0),
            ffn_cfg=dict(embed_dims=256, feedforward_channels=2048, ffn_drop=0.0),
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=128, normalize=True, offset=-0.5, temperature=10000),
    bbox_head=dict(
        type="DINOHead",
        num_classes=80,  # of the denoising label embedding too
        sync_cls_avg_factor=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    ),
    train_cfg=dict(
        assigner=dict(
            type="HungarianAssigner",
            match_costs=[
                dict(type="FocalLossCost", weight=2.0),
                dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
                dict(type="IoUCost", iou_mode="giou", weight=2.0),
            ],
        ),
    ),
    test_cfg=dict(max_per_img=300),
)
