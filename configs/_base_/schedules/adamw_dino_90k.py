"""The 12-epoch schedule of DINO: AdamW for 90 000 iterations, learning rate / 10 after 82 500, the backbone's a tenth.

Source: https://github.com/IDEA-Research/detrex/tree/e244e6c3/configs/common/coco_schedule.py (lr_multiplier_12ep),
optim.py and projects/dino/configs/dino-convnext/dino_convnext_large_384_4scale_12ep.py
Differs: nothing that trains. As in detrex, norms outside the backbone have no weight decay and those in it do.
"""

_base_ = "../runtime.py"

train_cfg = dict(type="IterBasedTrainLoop", max_iters=90000, val_interval=5000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [dict(type="MultiStepLR", by_epoch=False, begin=0, end=90000, milestones=[82500], gamma=0.1)]

optim_wrapper = dict(
    type="OptimWrapper",
    # fused: the same step in one kernel instead of a dozen per parameter
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, fused=True),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    # A key of custom_keys takes its parameters out of all other rules.
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1)), norm_decay_mult=0.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=2500, save_best="coco/bbox_mAP", rule="greater"),
    visualization=dict(type="mmdet.DetVisualizationHook"),  # draws only when asked to, e.g. by tools/test.py --show-dir
)
log_processor = dict(by_epoch=False)
