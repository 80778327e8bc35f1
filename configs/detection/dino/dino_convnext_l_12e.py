"""DINO with four scales, ConvNeXt-L with ImageNet-1K weights, COCO, 90 000 iterations, which are 12 epochs.

Run: tools/dist_train.sh configs/detection/dino/dino_convnext_l_12e.py 8
Batch: 8 GPUs x 2 images = 16
Source: https://github.com/IDEA-Research/detrex/tree/e244e6c3/projects/dino, README.md (result) and
configs/dino-convnext/dino_convnext_large_384_4scale_12ep.py (recipe)
Chosen here: which ImageNet-1K weights. detrex names none; these are the ones that the paper's repository lists.
"""

_base_ = [
    "../../_base_/models/dino_convnext.py",
    "../../_base_/datasets/coco_detr.py",
    "../../_base_/schedules/adamw_dino_90k.py",
]

model = dict(
    backbone=dict(
        arch="large",
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_large_1k_224_ema.pth"
        ),
    ),
    neck=dict(in_channels=[384, 768, 1536]),
)
