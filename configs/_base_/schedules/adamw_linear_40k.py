"""The schedule of a linear head on frozen features: AdamW for 40 000 iterations, cosine to zero after 1 500 of warm-up.

Source: https://github.com/facebookresearch/dinov3/tree/6876159a/dinov3/eval/segmentation (train.py, schedulers.py,
configs/config-ade20k-linear-training.yaml)
Differs: during the warm-up, the learning rate there also falls linearly and here as the cosine does, up to 4 % more.
"""

_base_ = "../runtime.py"

train_cfg = dict(type="IterBasedTrainLoop", max_iters=40000, val_interval=5000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

# mmengine reaches the last value one iteration before `end`, hence 1501.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1501),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=0, end=40000, T_max=40000),
]

optim_wrapper = dict(
    type="OptimWrapper",
    # fused: the same step in one kernel instead of a dozen per parameter
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-3, fused=True),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=5000, save_best="mIoU", rule="greater"),
    visualization=dict(type="SegVisualizationHook"),  # draws only when asked to, e.g. by tools/test.py --show-dir
)
log_processor = dict(by_epoch=False)
