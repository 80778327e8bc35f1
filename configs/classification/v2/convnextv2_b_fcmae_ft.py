"""ConvNeXt V2-B fine-tuned on ImageNet-1K from FCMAE weights that saw no labels, 100 epochs at 224 pixels.

Run: NNODES=4 NODE_RANK=... MASTER_ADDR=... tools/dist_train.sh configs/classification/v2/convnextv2_b_fcmae_ft.py 8
Batch: 4 nodes x 8 GPUs x 32 images = 1024
Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/25539587/TRAINING.md (recipe); arXiv:2301.00808, Table 15
(top-1 84.9); the weights are CC-BY-NC 4.0
Results here: not measured
"""

_base_ = [
    "../../_base_/models/convnextv2_classifier_ft.py",
    "../../_base_/datasets/imagenet_1k.py",
    "../../_base_/schedules/adamw_v2_ft.py",
]

weights = dict(type="Pretrained", checkpoint="zoo:convnextv2_b_fcmae")
model = dict(backbone=dict(arch="base", drop_path_rate=0.1, init_cfg=weights), label_smoothing=0.1)
train_dataloader = dict(batch_size=32, dataset=dict(transform=dict(color_jitter=None)))
train_cfg = dict(max_epochs=100)
cosine = dict(type="CosineAnnealingLR", by_epoch=True, begin=20, end=100, convert_to_iter_based=True)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(cosine, eta_min_ratio=1e-6 / 2.5e-3),
]
optim_wrapper = dict(
    optimizer=dict(lr=2.5e-3, weight_decay=0.05),  # 6.25e-4 per 256 images
    paramwise_cfg=dict(decay_type="layer_wise", decay_rate=0.6),
)
