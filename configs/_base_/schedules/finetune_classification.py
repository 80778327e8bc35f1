"""Fine-tuning of classifiers: the best checkpoint is the one with the highest top-1 accuracy."""

_base_ = "finetune.py"

optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
