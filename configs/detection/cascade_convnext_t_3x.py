"""Cascade Mask R-CNN, ConvNeXt-T with ImageNet-1K weights, COCO, 3x schedule.

Run: tools/dist_train.sh configs/detection/cascade_convnext_t_3x.py 8
Batch: 8 GPUs x 2 images = 16
Source: arXiv:2201.03545v2, Table 3 (results) and Appendix A.3 (recipe);
https://github.com/facebookresearch/ConvNeXt/blob/048efcea/object_detection/configs/convnext/cascade_mask_rcnn_convnext_tiny_patch4_window7_mstrain_480-800_giou_4conv1f_adamw_3x_coco_in1k.py
"""

_base_ = [
    "../_base_/models/cascade_mask_rcnn_convnext.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_3x.py",
]

model = dict(
    backbone=dict(
        arch="tiny",
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth"),
    ),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",  # the official run was in fp16 (apex)
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(decay_rate=0.7),
)
