"""DINO with four scales, ConvNeXt-T with ImageNet-22K weights fine-tuned at 384 pixels, COCO, 12 epochs.

Run: tools/dist_train.sh configs/detection/dino/dino_convnext_t_22k_384_12e.py 8
Batch: 8 GPUs x 2 images = 16
Source: https://github.com/IDEA-Research/detrex/tree/e244e6c3/projects/dino, README.md (result) and
configs/dino-convnext/dino_convnext_tiny_384_4scale_12ep.py (recipe)
"""

_base_ = "dino_convnext_t_12e.py"

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_tiny_22k_1k_384.pth"),
    ),
)
