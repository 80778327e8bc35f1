"""Mask2Former for semantic segmentation on ConvNeXt, for ADE20K's 150 classes, with the widths of ConvNeXt-T and -S.

A leaf sets `arch`, `drop_path_rate`, the weights and, from B upwards, the head's `in_channels`; for a crop other than
512 it sets `data_preprocessor` and `test_cfg` too. No recipe is published in full for Mask2Former on ConvNeXt: the
values are those of mmseg's ResNet and Swin.

Source: configs/mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py of mmsegmentation 1.2.2
Differs: prediction is with sliding windows, as for UperNet here; mmseg predicts whole images.
"""

# The first module serves mmcv's operators, which the others import.
custom_imports = dict(imports=["convnext_dense", "convnext_dense.models.segmentor", "mmdet.models"])
default_scope = "mmseg"
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], alpha=0.5)

attention = dict(embed_dims=256, num_heads=8, attn_drop=0.0, proj_drop=0.0, dropout_layer=None, batch_first=True)

model = dict(
    type="convnext_dense.TiledEncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        # ImageNet's mean and standard deviation times 255, as in pre-training.
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,  # padding is ignored by the loss
        size=(512, 512),
        test_cfg=dict(size_divisor=32),
    ),
    backbone=dict(
        type="convnext_dense.ConvNeXt",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        output_norms="all",
        # Loaded weights replace it with the trained gamma; a run from random weights starts with 1.
        layer_scale_init_value=1.0,
    ),
    decode_head=dict(
        type="Mask2FormerHead",
        in_channels=[96, 192, 384, 768],
        strides=[4, 8, 16, 32],
        feat_channels=256,
        out_channels=256,
        num_classes=150,
        num_queries=100,
        num_transformer_feat_level=3,
        align_corners=False,
        pixel_decoder=dict(
            type="mmdet.MSDeformAttnPixelDecoder",
            num_outs=3,
            norm_cfg=dict(type="GN", num_groups=32),
            act_cfg=dict(type="ReLU"),
            encoder=dict(
                num_layers=6,
                layer_cfg=dict(
                    self_attn_cfg=dict(
                        embed_dims=256, num_heads=8, num_levels=3, num_points=4, dropout=0.0, batch_first=True
                    ),
                    ffn_cfg=dict(embed_dims=256, feedforward_channels=1024, num_fcs=2, ffn_drop=0.0),
                ),
            ),
            positional_encoding=dict(num_feats=128, normalize=True),
        ),
        enforce_decoder_input_project=False,
        positional_encoding=dict(num_feats=128, normalize=True),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=9,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=256, feedforward_channels=2048, num_fcs=2, ffn_drop=0.0),
            ),
            init_cfg=None,
        ),
        loss_cls=dict(
            type="mmdet.CrossEntropyLoss",
            use_sigmoid=False,
            loss_weight=2.0,
            reduction="mean",
            class_weight=[1.0] * 150 + [0.1],  # the last one is "no object"
        ),
        loss_mask=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True, reduction="mean", loss_weight=5.0),
        loss_dice=dict(
            type="mmdet.DiceLoss",
            use_sigmoid=True,
            activate=True,
            reduction="mean",
            naive_dice=True,
            eps=1.0,
            loss_weight=5.0,
        ),
        train_cfg=dict(
            num_points=12544,  # 112 x 112
            oversample_ratio=3.0,
            importance_sample_ratio=0.75,
            assigner=dict(
                type="mmdet.HungarianAssigner",
                match_costs=[
                    dict(type="mmdet.ClassificationCost", weight=2.0),
                    dict(type="mmdet.CrossEntropyLossCost", weight=5.0, use_sigmoid=True),
                    dict(type="mmdet.DiceCost", weight=5.0, pred_act=True, eps=1.0),
                ],
            ),
            sampler=dict(type="mmdet.MaskPseudoSampler"),
        ),
    ),
    train_cfg={},
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
tta_model = dict(type="convnext_dense.TiledTTAModel", module=dict(test_cfg=dict(mode="whole")))
