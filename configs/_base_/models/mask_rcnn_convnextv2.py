"""Mask R-CNN on ConvNeXt V2: the differences from V1, with the widths of ConvNeXt V2-B.

Source: arXiv:2301.00808, appendix A.3. There is no official code for detection with V2; OpenMMLab has a config of its
own, which `configs/detection/v2/mask_rcnn_convnextv2_b_openmmlab_3x.py` follows.
"""

_base_ = "mask_rcnn_convnext.py"

model = dict(
    data_preprocessor=dict(
        # All images of a batch have one size, whatever jitter leaves of them.
        batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), img_pad_value=0, pad_mask=True)],
    ),
    backbone=dict(arch="base", use_grn=True, layer_scale_init_value=0.0),
    neck=dict(in_channels=[128, 256, 512, 1024]),
    test_cfg=dict(rcnn=dict(nms=dict(type="soft_nms", iou_threshold=0.5))),
)
