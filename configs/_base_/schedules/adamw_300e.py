"""Training from scratch on ImageNet-1K: AdamW for 300 epochs, 20 of them warm-up, cosine per iteration, moving average.

Every leaf uses 4096 images per step; the number of processes determines how many batches are accumulated for that.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea/main.py, TRAINING.md; arXiv:2201.03545v2, Table 5
Differs: with accumulation, the learning rate also changes between the batches of one step.
"""

_base_ = "../runtime.py"

effective_batch = 4096

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=300, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

param_scheduler = [
    # The official code starts from 0, which mmengine's recursive formula could never leave.
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    # Down to 1e-6; as a ratio, because the official code applies layer decay to the lowest rate too.
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 4e-3,
        by_epoch=True,
        begin=20,
        end=300,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    type="OptimWrapper",  # float32, like the official runs; --amp is faster
    # fused: the same step in one kernel instead of a dozen per parameter
    optimizer=dict(type="AdamW", lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05, fused=True),
    # No weight decay on biases and one-dimensional parameters.
    constructor="convnext_dense.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=1.0),
)

# The average is evaluated and saved as `state_dict`; the raw weights are in the same file as `ema_state_dict`.
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=1e-4)]  # decay 0.9999
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1, save_best="accuracy/top1", rule="greater"))
randomness = dict(seed=0)  # main.py's --seed
env_cfg = dict(cudnn_benchmark=True)  # all images of a run have the same size
