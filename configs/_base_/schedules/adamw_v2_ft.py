"""Fine-tuning of FCMAE weights on ImageNet-1K: AdamW, a cosine per iteration, a moving average, 1024 images per step.

A leaf sets the length, the learning rate and its decay.

Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/25539587/TRAINING.md, main_finetune.py
"""

_base_ = "adamw_300e.py"

effective_batch = 1024

optim_wrapper = dict(type="AmpOptimWrapper")
