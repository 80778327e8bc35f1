"""Cascade Mask R-CNN, ConvNeXt-B with ImageNet-22K weights, COCO, 3x schedule.

Run: tools/dist_train.sh configs/detection/cascade_convnext_b_22k_3x.py 8
Batch: 8 GPUs x 2 images = 16
Source: arXiv:2201.03545v2, Table 3 (results) and Appendix A.3 (recipe);
https://github.com/facebookresearch/ConvNeXt/blob/048efcea/object_detection/configs/convnext/cascade_mask_rcnn_convnext_base_patch4_window7_mstrain_480-800_giou_4conv1f_adamw_3x_coco_in22k.py
"""

_base_ = [
    "../_base_/models/cascade_mask_rcnn_convnext.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_3x.py",
]

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.6,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth"
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",  # the official run was in fp16 (apex)
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(decay_rate=0.8),
)
