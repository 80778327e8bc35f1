"""ImageNet-1K in `data/imagenet/train`, at 224 pixels, without its classes.

Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/25539587/main_pretrain.py; arXiv:2301.00808, Table 8. The
table names the random crop alone; the code flips, too, as here.
"""

train_dataloader = dict(
    batch_size=64,  # per process
    num_workers=10,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="convnext_dense.UnlabelledImages",
        root="data/imagenet/train",
        # arguments of timm's create_transform
        transform=dict(
            input_size=224,
            is_training=True,
            scale=(0.2, 1.0),
            hflip=0.5,
            color_jitter=None,
            interpolation="bicubic",
        ),
        max_corrupt_rate=1e-4,
    ),
)
