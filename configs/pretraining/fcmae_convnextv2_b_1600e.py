"""ConvNeXt V2-B pre-trained without labels on ImageNet-1K by FCMAE, 1600 epochs at 224 pixels.

Run: NNODES=8 NODE_RANK=... MASTER_ADDR=... tools/dist_train.sh configs/pretraining/fcmae_convnextv2_b_1600e.py 8
Batch: 8 nodes x 8 GPUs x 64 images = 4096
Source: arXiv:2301.00808, Table 8 (recipe) and Table 15 (top-1 84.9 after fine-tuning on ImageNet-1K); https://github.com/facebookresearch/ConvNeXt-V2/blob/25539587/TRAINING.md
Results here: not measured
"""

_base_ = [
    "../_base_/models/fcmae_convnextv2.py",
    "../_base_/datasets/imagenet_1k_unlabelled.py",
    "../_base_/schedules/adamw_fcmae_1600e.py",
]

model = dict(backbone=dict(arch="base"))
