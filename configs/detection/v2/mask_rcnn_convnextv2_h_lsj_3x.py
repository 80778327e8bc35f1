"""Mask R-CNN, ConvNeXt V2-H with FCMAE weights fine-tuned on ImageNet-1K, COCO, 3x schedule, large-scale jitter.

Run: tools/dist_train.sh configs/detection/v2/mask_rcnn_convnextv2_h_lsj_3x.py 8
Batch: 8 GPUs x 4 images = 32
Source: arXiv:2301.00808, Table 6 (result) and Appendix A.3 (recipe); the weights are CC-BY-NC 4.0
Chosen here, within the published sweeps: decay rate 0.9 (of 0.9, 0.95), drop path 0.5 (of 0.2 to 0.5)
Chosen here, where nothing is published: mixed precision, 500 warm-up iterations, steps after epochs 27 and 33, the
initial weights
"""

_base_ = "mask_rcnn_convnextv2_l_lsj_3x.py"

model = dict(
    backbone=dict(
        arch="huge",
        drop_path_rate=0.5,
        init_cfg=dict(
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_huge_1k_224_ema.pt"
        ),
    ),
    neck=dict(in_channels=[352, 704, 1408, 2816]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9))
