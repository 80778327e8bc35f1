"""Your own images without labels, named with --data DIR, at 224 pixels."""

_base_ = "imagenet_1k_unlabelled.py"

light = dict(input_size=224, is_training=True, scale=(0.2, 1.0), hflip=0.5, color_jitter=None, interpolation="bicubic")
strong = dict(light, color_jitter=0.4)
augmentations = dict(light=light, strong=strong)
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    # few broken images are skipped, counted and named
    dataset=dict(root="data/own", transform=dict(_delete_=True, **light), max_corrupt_rate=0.05),
)
