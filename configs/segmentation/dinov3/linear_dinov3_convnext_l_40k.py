"""A linear head on the frozen DINOv3 ConvNeXt-L, ADE20K, 40 000 iterations.

Run: tools/dist_train.sh configs/segmentation/dinov3/linear_dinov3_convnext_l_40k.py 8
Batch: 8 GPUs x 2 images = 16; 40 000 x 16 / 20 210 images = 32 epochs
Source: https://github.com/facebookresearch/dinov3/tree/6876159a, MODEL_CARD.md (result) and
dinov3/eval/segmentation/configs/config-ade20k-linear-training.yaml (recipe); the weights have DINOv3's own licence
Not published: that the result was made by this recipe, which is the only one in the repository
Differs: images are scaled so that their long side stays below four times their short side, as elsewhere here
"""

_base_ = [
    "../../_base_/models/linear_convnext.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/adamw_linear_40k.py",
]

model = dict(
    backbone=dict(
        arch="large",
        init_cfg=dict(type="Pretrained", checkpoint="timm:convnext_large.dinov3_lvd1689m"),
    ),
    decode_head=dict(in_channels=1536),
)
