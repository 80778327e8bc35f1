"""RTMDet's schedule for large backbones: AdamW for 100 epochs, constant for 50, then cosine.

A leaf sets the layer-wise decay rate, the moving average and the pipeline of the last ten epochs. Validation is after
every tenth epoch, and after each of the last ten.

Source: configs/rtmdet/rtmdet_l_convnext_b_4xb32-100e_coco.py and rtmdet_l_8xb32-300e_coco.py of mmdet 3.3.0
Differs: a checkpoint is written after every epoch instead of every ten.
"""

_base_ = "../runtime.py"

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=100, val_interval=10, dynamic_intervals=[(90, 1)])
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type="CosineAnnealingLR",
        eta_min=5e-5,  # a twentieth of lr, also in groups whose rate is lower
        by_epoch=True,
        begin=50,
        end=100,
        T_max=50,
        convert_to_iter_based=True,
    ),
]

optim_wrapper = dict(
    type="OptimWrapper",
    # fused: the same step in one kernel instead of a dozen per parameter
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    # The number of layers, which sets the exponents of the decay rate, comes from the backbone.
    constructor="convnext_dense.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise"),
)
auto_scale_lr = dict(enable=False, base_batch_size=128)  # 4 GPUs x 32 images

default_hooks = dict(
    checkpoint=dict(by_epoch=True, interval=1, save_best="coco/bbox_mAP", rule="greater"),
    visualization=dict(type="mmdet.DetVisualizationHook"),  # draws only when asked to, e.g. by tools/test.py --show-dir
)
