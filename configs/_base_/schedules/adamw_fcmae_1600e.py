"""Pre-training by FCMAE: AdamW for 1600 epochs, 40 of them warm-up, cosine per iteration to zero; 4096 images per step.

The number of processes determines how many batches are accumulated for a step.

Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/25539587/main_pretrain.py, TRAINING.md; arXiv:2301.00808,
Table 8 (800 or 1600 epochs; the released weights are of 1600)
Differs: GRN's parameters have no weight decay; in the official pre-training they have two dimensions, and do.
"""

_base_ = "../runtime.py"

effective_batch = 4096

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1600, val_interval=1600)

param_scheduler = [
    # The official code starts from 0, which mmengine's recursive formula could never leave.
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=40, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True, begin=40, end=1600, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type="OptimWrapper",
    # 1.5e-4 per 256 images; fused: the same step in one kernel instead of a dozen per parameter
    optimizer=dict(type="AdamW", lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor="convnext_dense.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=1.0),
)
custom_hooks = [dict(type="convnext_dense.ReconstructionsHook")]
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=20))
randomness = dict(seed=0)
env_cfg = dict(cudnn_benchmark=True)  # all images of a run have the same size
