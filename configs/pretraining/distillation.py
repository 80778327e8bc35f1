"""ConvNeXt-T that learns the features of DINOv3's ViT-S from your own images without labels, at 224 pixels.

Run: python tools/train.py configs/pretraining/distillation.py --data DIR
     with another teacher: ... --cfg-options model.teacher=convnext_large.dinov3_lvd1689m
Batch: 1 GPU x 64 images, accumulated to 256
Source: our own; there is no published counterpart
Results here: not measured
"""

_base_ = [
    "../_base_/models/distillation_convnext.py",
    "../_base_/datasets/pretraining.py",
    "../_base_/schedules/pretraining.py",
]

effective_batch = 256
optim_wrapper = dict(optimizer=dict(lr=1e-3))
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.02, update_buffers=True)]
