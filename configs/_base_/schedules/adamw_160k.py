"""The schedule of ADE20K segmenters: AdamW for 160 000 iterations, learning rate falling to zero along a straight line.

A leaf gives the learning rate and asks for mixed precision where the published run had it.

Source: https://github.com/facebookresearch/ConvNeXt/tree/048efcea/semantic_segmentation/configs/convnext
Differs: MMSegmentation's own ConvNeXt configs let the rate fall from iteration 1500 on, the official ones from the
first one on, with the warm-up as a factor; checkpoints are written more often than every 16 000 iterations.
"""

_base_ = "../runtime.py"

train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

# mmengine reaches the last value one iteration before `end`, hence the odd numbers: the warm-up is over at iteration
# 1500, and the rate would be zero at iteration 160 000.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1501),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=160001),
]

optim_wrapper = dict(
    type="OptimWrapper",
    # fused: the same step in one kernel instead of a dozen per parameter
    optimizer=dict(type="AdamW", betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    # The number of layers, by which the rate is raised, comes from the backbone.
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
