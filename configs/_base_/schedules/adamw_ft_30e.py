"""Fine-tuning on ImageNet-1K: AdamW for 30 epochs, cosine per iteration without warm-up, layer-wise decay.

A leaf sets the decay rate: 0.8 from ImageNet-22K weights, 0.7 from ImageNet-1K weights.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md; arXiv:2201.03545v2, Table 6
"""

_base_ = "adamw_300e.py"

effective_batch = 512

train_cfg = dict(max_epochs=30)
param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 5e-5,
        by_epoch=True,
        begin=0,
        end=30,
        convert_to_iter_based=True,
    ),
]
optim_wrapper = dict(
    optimizer=dict(lr=5e-5, weight_decay=1e-8),
    paramwise_cfg=dict(decay_type="layer_wise"),
)
custom_hooks = []
