"""Fine-tuning of segmenters: the best checkpoint is the one with the highest mean IoU."""

_base_ = "finetune.py"

optim_wrapper = dict(paramwise_cfg=dict(decay_type="stage_wise"))
default_hooks = dict(
    checkpoint=dict(save_best="mIoU"),
    visualization=dict(type="SegVisualizationHook"),
)
