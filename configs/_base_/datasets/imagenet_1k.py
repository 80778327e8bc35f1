"""ImageNet-1K in class folders in `data/imagenet/`, at 224 pixels; top-1 and top-5 accuracy.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea/datasets.py and main.py; arXiv:2201.03545v2, Table 5
"""

train_dataloader = dict(
    batch_size=128,  # per process
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="convnext_dense.ImageFolder",
        root="data/imagenet/train",
        # Arguments of timm's create_transform. The official runs pass colour jitter too; RandAugment replaces it,
        # there and here.
        transform=dict(
            input_size=224,
            is_training=True,
            color_jitter=0.4,
            auto_augment="rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            re_prob=0.25,
            re_mode="pixel",
            re_count=1,
        ),
        max_corrupt_rate=1e-4,
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="convnext_dense.ImageFolder",
        root="data/imagenet/val",
        # The shorter side becomes 224 / 0.875 = 256 pixels.
        transform=dict(input_size=224, is_training=False, interpolation="bicubic", crop_pct=0.875, crop_mode="center"),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="convnext_dense.Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
