"""ConvNeXt-B trained from scratch on ImageNet-1K, 300 epochs at 224 pixels.

Run: NNODES=4 NODE_RANK=... MASTER_ADDR=... tools/dist_train.sh configs/classification/convnext_b_1k.py 8
Batch: 4 nodes x 8 GPUs x 128 images = 4096
Source: arXiv:2201.03545v2, Table 1 (results, moving average) and Table 5 (recipe); https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md
"""

_base_ = [
    "../_base_/models/convnext_classifier.py",
    "../_base_/datasets/imagenet_1k.py",
    "../_base_/schedules/adamw_300e.py",
]

model = dict(backbone=dict(arch="base", drop_path_rate=0.5))
