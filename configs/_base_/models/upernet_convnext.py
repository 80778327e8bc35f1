"""UperNet on ConvNeXt with an auxiliary FCN head, for ADE20K's 150 classes, with the widths of ConvNeXt-T.

A leaf sets `arch`, `drop_path_rate`, the weights and, from B upwards, the heads' `in_channels`; for a crop other than
512 it sets `data_preprocessor` and `test_cfg` too.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea/semantic_segmentation/configs/_base_/models/upernet_convnext.py
Differs: images are predicted a few rows at a time, see convnext_dense/models/segmentor.py; 8-bit BGR input is
normalised by the data preprocessor, on the device, instead of in the data pipeline.
"""

custom_imports = dict(imports=["convnext_dense.models.segmentor"])  # the only module here that needs mmseg
default_scope = "mmseg"
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], alpha=0.5)

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
        type="UPerHead",
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=384,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg={},
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
# The published multi-scale results are from whole images, the single-scale ones from sliding windows.
tta_model = dict(type="convnext_dense.TiledTTAModel", module=dict(test_cfg=dict(mode="whole")))
