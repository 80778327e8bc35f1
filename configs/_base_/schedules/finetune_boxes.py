"""Fine-tuning of detectors: the best checkpoint is the one with the highest box AP."""

_base_ = "finetune.py"

default_hooks = dict(
    checkpoint=dict(save_best="coco/bbox_mAP"),
    visualization=dict(type="mmdet.DetVisualizationHook"),  # draws only when asked to, e.g. by tools/test.py --show-dir
)
