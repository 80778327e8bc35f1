"""Mask R-CNN, ConvNeXt V2-B with FCMAE weights that saw no labels, COCO, 3x schedule, as OpenMMLab trained it.

Run: tools/dist_train.sh configs/detection/v2/mask_rcnn_convnextv2_b_openmmlab_3x.py 8
Batch: 8 GPUs x 4 images = 32
Source: https://github.com/open-mmlab/mmdetection/tree/v3.3.0/projects/ConvNeXt-V2, README.md (result) and
configs/mask-rcnn_convnext-v2-b_fpn_lsj-3x-fcmae_coco.py (recipe); the weights are CC-BY-NC 4.0
Differs: the weights are the official file, of which OpenMMLab's is a copy under other names. The crop has another name
there and is the same; a batch is padded to its largest image there and here.
"""

_base_ = "mask_rcnn_convnextv2_b_lsj_3x.py"

model = dict(
    data_preprocessor=dict(batch_augments=None),
    backbone=dict(
        drop_path_rate=0.4,
        init_cfg=dict(
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_base_1k_224_fcmae.pt"
        ),
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
