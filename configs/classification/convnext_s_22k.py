"""ConvNeXt-S pre-trained on ImageNet-22K with 21841 classes, 90 epochs at 224 pixels.

Run: NNODES=16 NODE_RANK=... MASTER_ADDR=... tools/dist_train.sh configs/classification/convnext_s_22k.py 8
Batch: 16 nodes x 8 GPUs x 32 images = 4096
Source: arXiv:2201.03545v2, Table 5 (recipe); https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md
Published: nothing for the pre-trained classifier itself; convnext_s_22k_ft_224.py fine-tunes it
"""

_base_ = [
    "../_base_/models/convnext_classifier.py",
    "../_base_/datasets/imagenet_22k.py",
    "../_base_/schedules/adamw_90e.py",
]

model = dict(backbone=dict(arch="small", drop_path_rate=0.0), num_classes=21841)
