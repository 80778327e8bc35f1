"""DINO with four scales on ConvNeXt-T with ImageNet-22K weights, for your own boxes: the most accurate of these.

Run: python tools/train.py configs/finetune/dino.py --data DIR [--backbone NAME]
     or from a trained model: ... --init-from zoo:dino_convnext_t_22k_384_12e
Batch: 1 GPU x 4 images; --batch auto finds what fits
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = [
    "../_base_/models/dino_convnext.py",
    "../_base_/datasets/finetune_boxes.py",
    "../_base_/schedules/finetune_boxes.py",
]

model = dict(
    backbone=dict(
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="zoo:convnext_t_22k"),
    ),
)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), clip_grad=dict(max_norm=0.1))
