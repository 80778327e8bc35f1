"""ConvNeXt-XL fine-tuned on ImageNet-1K from ImageNet-22K weights, 30 epochs at 384 pixels.

Run: NNODES=8 NODE_RANK=... MASTER_ADDR=... tools/dist_train.sh configs/classification/convnext_xl_22k_ft_384.py 8
Batch: 8 nodes x 8 GPUs x 8 images = 512
Source: arXiv:2201.03545v2, Table 1 (results) and Table 6 (recipe); https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md
"""

_base_ = [
    "../_base_/models/convnext_classifier_ft.py",
    "../_base_/datasets/imagenet_1k_384.py",
    "../_base_/schedules/adamw_ft_30e.py",
]

model = dict(
    backbone=dict(arch="xlarge", drop_path_rate=0.4),
    init_cfg=dict(type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth"),
)
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1e-4)]  # decay 0.9999
