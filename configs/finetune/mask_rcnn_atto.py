"""Mask R-CNN on ConvNeXt-atto for your own objects on two CPU cores, from random weights.

Run: python tools/train.py configs/finetune/mask_rcnn_atto.py --data DIR
     or from ImageNet weights: ... --backbone convnext-atto --backbone-weights timm:convnext_atto.d2_in1k
Batch: 1 process x 4 images
Source: our own; there is no published counterpart
Results here: see docs/accuracy.md
"""

_base_ = [
    "../_base_/models/mask_rcnn_convnext_atto.py",
    "../_base_/datasets/finetune_instances_cpu.py",
    "../_base_/schedules/finetune_cpu.py",
]

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),  # anchors of 16 to 256 pixels
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=300)),  # an image may have a hundred objects
)
default_hooks = dict(checkpoint=dict(save_best="coco/segm_mAP"), visualization=dict(type="mmdet.DetVisualizationHook"))
# Images are resized so that the median object has the size that COCO calls medium. Random weights need many steps,
# however few images there are.
finetune = dict(object_size=32, image_size=320, crop_size=256, steps=(1200, 3000))
