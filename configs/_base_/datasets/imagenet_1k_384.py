"""ImageNet-1K at 384 pixels: evaluation resizes the whole image to a square instead of cropping it.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea/datasets.py (build_transform, input_size >= 384)
"""

_base_ = "imagenet_1k.py"

train_dataloader = dict(dataset=dict(transform=dict(input_size=384)))
val_dataloader = dict(dataset=dict(transform=dict(input_size=384, crop_pct=1.0, crop_mode="squash")))
test_dataloader = val_dataloader
