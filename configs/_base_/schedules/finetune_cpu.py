"""Training of small models on one's own data on two CPU cores, from random weights: the differences from fine-tuning.

All layers learn at one rate, ten times as fast. A leaf says by which metric the best checkpoint is kept.
"""

_base_ = "finetune.py"

finetune = dict(batch_size=4, epochs=12, steps=(600, 3000), evaluations=8)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(decay_rate=1.0),  # nothing is pre-trained
    clip_grad=dict(max_norm=10.0),
)
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.02, update_buffers=True),
    dict(type="convnext_dense.EarlyStoppingHook", patience=3),
]
