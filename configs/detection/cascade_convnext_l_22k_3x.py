"""Cascade Mask R-CNN, ConvNeXt-L with ImageNet-22K weights, COCO, 3x schedule in fp32, like the official run.

Run: tools/dist_train.sh configs/detection/cascade_convnext_l_22k_3x.py 8
Batch: 8 GPUs x 2 images = 16
Source: arXiv:2201.03545v2, Table 3 (results) and Appendix A.3 (recipe);
https://github.com/facebookresearch/ConvNeXt/blob/048efcea/object_detection/configs/convnext/cascade_mask_rcnn_convnext_large_patch4_window7_mstrain_480-800_giou_4conv1f_adamw_3x_coco_in22k.py
"""

_base_ = [
    "../_base_/models/cascade_mask_rcnn_convnext.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_3x.py",
]

model = dict(
    backbone=dict(
        arch="large",
        drop_path_rate=0.7,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth"
        ),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(decay_rate=0.7),
)
