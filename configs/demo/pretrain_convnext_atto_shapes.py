"""ConvNeXt-atto pre-trained on single shapes (tools/make_shapes.py data/shapes_crops --layout crops).

Run: make demo, or python tools/train.py configs/demo/pretrain_convnext_atto_shapes.py
Batch: 1 process x 32 images; sized for two CPU cores
Source: our own; there is no published counterpart
Results here: see docs/demo.md
"""

_base_ = "convnext_atto_small_images.py"

train_dataloader = dict(dataset=dict(root="data/shapes_crops/train", transform=dict(hflip=0.5)))
val_dataloader = dict(dataset=dict(root="data/shapes_crops/val"))
test_dataloader = val_dataloader
model = dict(num_classes=6)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
train_cfg = dict(max_epochs=5, val_interval=5)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", begin=0, end=5, eta_min_ratio=0.01, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=31))
