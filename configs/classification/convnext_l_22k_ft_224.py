"""ConvNeXt-L fine-tuned on ImageNet-1K from ImageNet-22K weights, 30 epochs at 224 pixels.

Run: NNODES=2 NODE_RANK=... MASTER_ADDR=... tools/dist_train.sh configs/classification/convnext_l_22k_ft_224.py 8
Batch: 2 nodes x 8 GPUs x 32 images = 512
Source: arXiv:2201.03545v2, Table 1 (results) and Table 6 (recipe); https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md
"""

_base_ = [
    "../_base_/models/convnext_classifier_ft.py",
    "../_base_/datasets/imagenet_1k.py",
    "../_base_/schedules/adamw_ft_30e.py",
]

model = dict(
    backbone=dict(arch="large", drop_path_rate=0.3),
    init_cfg=dict(type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth"),
)
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
