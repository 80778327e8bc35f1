"""Cascade Mask R-CNN, ConvNeXt-XL with ImageNet-22K weights, COCO, 3x schedule in fp32, like the official run.

Run: tools/dist_train.sh configs/detection/cascade_convnext_xl_22k_3x.py 8
Batch: 8 GPUs x 2 images = 16
Source: arXiv:2201.03545v2, Table 3 (results) and Appendix A.3 (recipe);
https://github.com/facebookresearch/ConvNeXt/blob/048efcea/object_detection/configs/convnext/cascade_mask_rcnn_convnext_xlarge_patch4_window7_mstrain_480-800_giou_4conv1f_adamw_3x_coco_in22k.py
"""

_base_ = "cascade_convnext_l_22k_3x.py"

model = dict(
    backbone=dict(
        arch="xlarge",
        drop_path_rate=0.8,
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth"),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
