"""ConvNeXt-T with ImageNet-22K weights, for your own classes of images.

Run: python tools/train.py configs/finetune/classifier.py --data DIR [--backbone NAME]
     or from a trained model: ... --init-from zoo:convnext_t_22k_ft_224
Batch: 1 GPU x 32 images; --batch auto finds what fits
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = [
    "../_base_/models/convnext_classifier_ft.py",
    "../_base_/datasets/finetune_classification.py",
    "../_base_/schedules/finetune_classification.py",
]

model = dict(
    backbone=dict(drop_path_rate=0.1),
    init_cfg=dict(type="Pretrained", checkpoint="zoo:convnext_t_22k"),
)
finetune = dict(batch_size=32, epochs=30, steps=(500, 30000))
