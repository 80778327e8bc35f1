"""RTMDet-Ins-l's neck and head on ConvNeXt-T with ImageNet-22K weights, for your own objects with masks.

Run: python tools/train.py configs/finetune/rtmdet_ins.py --data DIR [--backbone NAME]
Batch: 1 GPU x 4 images; --batch auto finds what fits
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = [
    "../_base_/models/rtmdet_ins_convnext.py",
    "../_base_/datasets/finetune_instances.py",
    "../_base_/schedules/finetune_instances.py",
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),  # images of any size
    backbone=dict(
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="zoo:convnext_t_22k"),
    ),
)
