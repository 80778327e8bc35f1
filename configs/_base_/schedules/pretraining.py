"""The schedule of pre-training on one's own images without labels: the differences from fine-tuning.

Nothing is evaluated: the last checkpoint is the result, and pictures of reconstructions show how far the run is. The
learning rate is FCMAE's for 256 images per step.
"""

_base_ = "finetune.py"

finetune = dict(batch_size=256, epochs=400, steps=(4000, 100000), evaluations=20)

val_cfg = None
test_cfg = None
optim_wrapper = dict(
    optimizer=dict(lr=1.5e-4, betas=(0.9, 0.95)),
    paramwise_cfg=dict(decay_rate=1.0),  # nothing is pre-trained
)
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.02, update_buffers=True),
    dict(type="convnext_dense.ReconstructionsHook"),
]
env_cfg = dict(cudnn_benchmark=True)  # all images of a run have the same size
