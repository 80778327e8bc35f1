"""From ResNet-200 to ConvNeXt-B, step "width": ImageNet-1K from scratch, 300 epochs at 224 pixels.

Run, with NNODES=4 NODE_RANK=... MASTER_ADDR=... on each of four nodes, or on one GPU with more batches per step:
    tools/dist_train.sh configs/classification/roadmap/resnet200_width.py 8
    python tools/train.py configs/classification/roadmap/resnet200_width.py
Batch: 4 nodes x 8 GPUs x 128 images = 4096
Source: arXiv:2201.03545v2, Table 11 (result) and Table 5 (recipe)
Ours: drop path 0.5, which is published for ConvNeXt-B with a moving average and not for the steps towards it.
Published: top-1 81.85; 16.76 GFLOPs at 224x224
Ours: not measured
"""

_base_ = "../../_base_/roadmap_classification.py"

model = dict(backbone=dict(step="width", regime="resnet200", drop_path_rate=0.5))
