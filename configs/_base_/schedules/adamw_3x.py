"""The 3x schedule of COCO detectors: AdamW for 36 epochs, learning rate / 10 after epochs 27 and 33.

A leaf sets the learning rate and the layer-wise decay rate, and turns on mixed precision where the published run used
it. The best checkpoint is the one with the highest box AP.

Source: https://github.com/facebookresearch/ConvNeXt/tree/048efcea/object_detection/configs/convnext and, for the
warm-up, configs/_base_/schedules/schedule_1x.py in SwinTransformer/Swin-Transformer-Object-Detection@c7b20110.
MMDetection's own ConvNeXt configs warm up for 1000 iterations; the official ones, and this one, for 500.
"""

_base_ = "../runtime.py"

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=36, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]

optim_wrapper = dict(
    type="OptimWrapper",
    # fused: the same step in one kernel instead of a dozen per parameter
    optimizer=dict(type="AdamW", betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    # The number of layers, which sets the exponents of the decay rate, comes from the backbone.
    constructor="convnext_dense.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise"),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)  # 8 GPUs x 2 images

default_hooks = dict(
    checkpoint=dict(by_epoch=True, interval=1, save_best="coco/bbox_mAP", rule="greater"),
    visualization=dict(type="mmdet.DetVisualizationHook"),  # draws only when asked to, e.g. by tools/test.py --show-dir
)
