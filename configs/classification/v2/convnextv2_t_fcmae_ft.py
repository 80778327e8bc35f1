"""ConvNeXt V2-T fine-tuned on ImageNet-1K from FCMAE weights that saw no labels, 300 epochs at 224 pixels.

Run: NNODES=4 NODE_RANK=... MASTER_ADDR=... tools/dist_train.sh configs/classification/v2/convnextv2_t_fcmae_ft.py 8
Batch: 4 nodes x 8 GPUs x 32 images = 1024
Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/25539587/TRAINING.md (recipe); arXiv:2301.00808, Table 15
(top-1 83.0); the weights are CC-BY-NC 4.0
Results here: not measured
"""

_base_ = [
    "../../_base_/models/convnextv2_classifier_ft.py",
    "../../_base_/datasets/imagenet_1k.py",
    "../../_base_/schedules/adamw_v2_ft.py",
]

weights = dict(type="Pretrained", checkpoint="zoo:convnextv2_t_fcmae")
model = dict(backbone=dict(arch="tiny", drop_path_rate=0.2, init_cfg=weights), label_smoothing=0.1)
train_dataloader = dict(batch_size=32, dataset=dict(transform=dict(color_jitter=None)))
train_cfg = dict(max_epochs=300)
cosine = dict(type="CosineAnnealingLR", by_epoch=True, begin=40, end=300, convert_to_iter_based=True)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=40, convert_to_iter_based=True),
    dict(cosine, eta_min_ratio=1e-6 / 3.2e-3),
]
optim_wrapper = dict(
    optimizer=dict(lr=3.2e-3, weight_decay=0.05),  # 8e-4 per 256 images
    paramwise_cfg=dict(decay_type="block_wise", decay_rate=0.9),
)
