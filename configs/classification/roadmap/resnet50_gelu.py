"""From ResNet-50 to ConvNeXt-T, step "gelu": ImageNet-1K from scratch, 300 epochs at 224 pixels.

Run, with NNODES=4 NODE_RANK=... MASTER_ADDR=... on each of four nodes, or on one GPU with more batches per step:
    tools/dist_train.sh configs/classification/roadmap/resnet50_gelu.py 8
    python tools/train.py configs/classification/roadmap/resnet50_gelu.py
Batch: 4 nodes x 8 GPUs x 128 images = 4096
Source: arXiv:2201.03545v2, Table 10 (result) and Table 5 (recipe)
Published: top-1 80.62 (mean of three seeds, deviation 0.14); 4.15 GFLOPs at 224x224
Ours: not measured
"""

_base_ = "../../_base_/roadmap_classification.py"

model = dict(backbone=dict(step="gelu"))
