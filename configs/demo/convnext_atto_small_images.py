"""ConvNeXt-atto as a classifier of your own small images, from random weights.

Run: python tools/train.py configs/demo/convnext_atto_small_images.py --data DIR
Batch: 1 process x 32 images; sized for two CPU cores
Source: our own; there is no published counterpart
Results here: see docs/accuracy.md
"""

_base_ = [
    "../_base_/models/convnext_classifier.py",
    "../_base_/datasets/imagenet_1k.py",
    "../_base_/schedules/adamw_300e.py",
]

model = dict(
    backbone=dict(
        arch="atto",
        layer_scale_init_value=1.0,
        # The paper's standard deviation of .02 suits 300 epochs; at these widths, blocks would start as identities and
        # learn slowly.
        init_cfg=dict(
            type="Kaiming", layer=["Conv2d", "Linear"], mode="fan_in", nonlinearity="linear", distribution="normal"
        ),
    ),
    mixup=None,
)
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        transform=dict(
            _delete_=True,
            input_size=64,
            is_training=True,
            scale=(0.6, 1.0),
            hflip=0.0,
            color_jitter=0.2,
            interpolation="bicubic",
        )
    ),
)
val_dataloader = dict(batch_size=64, num_workers=1, dataset=dict(transform=dict(input_size=64, crop_pct=1.0)))
test_dataloader = val_dataloader

effective_batch = 32
train_cfg = dict(max_epochs=12, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", begin=0, end=12, eta_min_ratio=0.01, convert_to_iter_based=True),
]
custom_hooks = []
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
