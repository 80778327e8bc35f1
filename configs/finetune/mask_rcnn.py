"""Mask R-CNN on ConvNeXt-T with ImageNet-22K weights, for your own objects with or without masks.

Run: python tools/train.py configs/finetune/mask_rcnn.py --data DIR [--backbone NAME]
     or from a trained model: ... --init-from zoo:mask_rcnn_convnext_t_3x
Batch: 1 GPU x 4 images; --batch auto finds what fits
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = [
    "../_base_/models/mask_rcnn_convnext.py",
    "../_base_/datasets/finetune_instances.py",
    "../_base_/schedules/finetune_instances.py",
]

model = dict(
    backbone=dict(
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="zoo:convnext_t_22k"),
    ),
)
