"""The schedule of fine-tuning on one's own data: AdamW, cosine after a warm-up, a moving average, early stopping.

The length follows from the number of images: `finetune.epochs` passes, but within `finetune.steps` optimizer steps.
The schedule below is written for 1000 iterations and keeps its shape: the warm-up is 5 %. There are `evaluations`, or
fewer if these would take more than about a tenth of the time. The schedule of each task says by what metric the best
checkpoint is kept. The learning rate is for `finetune.batch_size` images per step, and follows the square root of the
batch.

Source of the rule for the learning rate: arXiv:2205.10287, for Adam. The rest is our own.
"""

_base_ = "../runtime.py"

finetune = dict(batch_size=16, epochs=50, steps=(1000, 30000), evaluations=20, augmentation="light")

train_cfg = dict(type="IterBasedTrainLoop", max_iters=1000, val_interval=50)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=0, end=1000, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor="convnext_dense.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.9, decay_type="layer_wise"),
    clip_grad=dict(max_norm=5.0),
)
custom_hooks = [
    # The momentum follows from the length: the average goes over about the last 5 % of the steps.
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.02, update_buffers=True),
    dict(type="convnext_dense.EarlyStoppingHook", patience=6),  # of the metric by which the best is kept
]
default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=50, max_keep_ckpts=1, rule="greater"),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
