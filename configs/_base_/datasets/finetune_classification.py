"""Your own class folders, named with --data DIR, at 224 pixels; top-1 and top-5 accuracy.

`light` crops, flips and jitters colours. `strong` is RandAugment and random erasing, as in pre-training. Both are
arguments of timm's create_transform.
"""

_base_ = "imagenet_1k.py"

light = dict(input_size=224, is_training=True, scale=(0.5, 1.0), color_jitter=0.2, interpolation="bicubic")
strong = dict(
    input_size=224,
    is_training=True,
    scale=(0.3, 1.0),
    auto_augment="rand-m9-mstd0.5-inc1",
    interpolation="bicubic",
    re_prob=0.25,
    re_mode="pixel",
)
augmentations = dict(light=light, strong=strong)
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    drop_last=False,
    dataset=dict(root="data/own/train", transform=dict(_delete_=True, **light)),
)
val_dataloader = dict(batch_size=32, num_workers=4, dataset=dict(root="data/own/val"))
test_dataloader = val_dataloader
