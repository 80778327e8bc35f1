"""Mask R-CNN on ConvNeXt-femto for your own objects on two CPU cores, from random weights.

Run: python tools/train.py configs/finetune/mask_rcnn_femto.py --data DIR
     or from ImageNet weights: ... --backbone convnext-femto --backbone-weights timm:convnext_femto.d1_in1k
Batch: 1 process x 4 images
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = "mask_rcnn_atto.py"

model = dict(backbone=dict(arch="femto"), neck=dict(in_channels=[48, 96, 192, 384]))
