"""Mask R-CNN, ConvNeXt V2-B with FCMAE weights fine-tuned on ImageNet-1K, COCO, 3x schedule, large-scale jitter.

Run: tools/dist_train.sh configs/detection/v2/mask_rcnn_convnextv2_b_lsj_3x.py 8
Batch: 8 GPUs x 4 images = 32
Source: arXiv:2301.00808, Table 6 (result) and Appendix A.3 (recipe); the weights are CC-BY-NC 4.0
Chosen here, within the published sweeps: decay rate 0.95 (of 0.9, 0.95), drop path 0.3 (of 0.2 to 0.5)
Chosen here, where nothing is published: mixed precision, 500 warm-up iterations, steps after epochs 27 and 33, the
initial weights. OpenMMLab published other choices for a run of its own: `mask_rcnn_convnextv2_b_openmmlab_3x.py`
"""

_base_ = [
    "../../_base_/models/mask_rcnn_convnextv2.py",
    "../../_base_/datasets/coco_instance_lsj.py",
    "../../_base_/schedules/adamw_3x.py",
]

model = dict(
    backbone=dict(
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_base_1k_224_ema.pt",
        ),
    ),
)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.95))
auto_scale_lr = dict(base_batch_size=32)
