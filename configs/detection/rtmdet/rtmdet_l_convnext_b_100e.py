"""RTMDet-l's neck and head on ConvNeXt-B with ImageNet-22K weights fine-tuned at 384 pixels, COCO, 100 epochs at 640.

Run: tools/dist_train.sh configs/detection/rtmdet/rtmdet_l_convnext_b_100e.py 4
Batch: 4 GPUs x 32 images = 128
Source: https://github.com/open-mmlab/mmdetection/tree/v3.3.0/configs/rtmdet, README.md (result) and
rtmdet_l_convnext_b_4xb32-100e_coco.py (recipe)
Differs: the weights are the official file, of which mmdet's is a copy under other names; `--auto-scale-lr` scales from
a batch of 128, mmdet's from 16.
"""

_base_ = [
    "../../_base_/models/rtmdet_convnext.py",
    "../../_base_/datasets/coco_640.py",
    "../../_base_/schedules/adamw_rtmdet_100e.py",
]

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.7,
        with_cp=True,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_1k_384.pth"
        ),
    ),
    neck=dict(in_channels=[256, 512, 1024]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002, update_buffers=True, priority=49),
    dict(type="PipelineSwitchHook", switch_epoch=90, switch_pipeline=_base_.train_pipeline_stage2),
]
