"""Fine-tuning of detectors with masks: the best checkpoint is the one with the highest mask AP."""

_base_ = "finetune_boxes.py"

default_hooks = dict(checkpoint=dict(save_best="coco/segm_mAP"))
