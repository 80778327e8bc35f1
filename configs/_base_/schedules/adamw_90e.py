"""Pre-training on ImageNet-22K: as on ImageNet-1K, with 90 epochs, 5 of them warm-up, and no moving average.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md; arXiv:2201.03545v2, Table 5
"""

_base_ = "adamw_300e.py"

train_cfg = dict(max_epochs=90)
val_cfg = None
test_cfg = None
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 4e-3,
        by_epoch=True,
        begin=5,
        end=90,
        convert_to_iter_based=True,
    ),
]
custom_hooks = []
default_hooks = dict(checkpoint=dict(save_best=None))
