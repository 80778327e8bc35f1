"""The schedule of ADE20K segmenters: AdamW for 160 000 iterations, with the learning rate falling linearly to zero.

A leaf sets the learning rate and turns on mixed precision where the published run used it.

Source: https://github.com/facebookresearch/ConvNeXt/tree/048efcea/semantic_segmentation/configs/convnext
Differs: checkpoints are written more often than every 16 000 iterations. MMSegmentation's own ConvNeXt configs start
the decay at iteration 1500; the official ones, and this one, start it at once and multiply it by the warm-up.
"""

_base_ = "../runtime.py"

train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

# mmengine reaches the last value one iteration before `end`, hence the odd numbers: the warm-up ends at iteration 1500,
# and the rate would be zero at iteration 160 000.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1501),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=160001),
]

optim_wrapper = dict(
    type="OptimWrapper",
    # fused: the same step in one kernel instead of a dozen per parameter
    optimizer=dict(type="AdamW", betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    # The number of layers, which sets the exponents of the decay rate, comes from the backbone.
    constructor="convnext_dense.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.9, decay_type="stage_wise"),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=4000, save_best="mIoU", rule="greater"),
    visualization=dict(type="SegVisualizationHook"),  # draws only when asked to, e.g. by tools/test.py --show-dir
)
log_processor = dict(by_epoch=False)
