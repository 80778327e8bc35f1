"""UperNet on ConvNeXt-T with ImageNet-22K weights, for your own label images.

Run: python tools/train.py configs/finetune/upernet.py --data DIR [--backbone NAME]
     or from a trained model: ... --init-from zoo:upernet_convnext_t_160k
Batch: 1 GPU x 4 images; --batch auto finds what fits
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = [
    "../_base_/models/upernet_convnext.py",
    "../_base_/datasets/finetune_segmentation.py",
    "../_base_/schedules/finetune_segmentation.py",
]

model = dict(
    backbone=dict(
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="zoo:convnext_t_22k"),
    ),
)
