"""UperNet on ConvNeXt-atto, generated shapes (tools/make_shapes.py data/shapes_ade --layout ade), from random weights.

Run: make demo-segmentation, or python tools/train.py configs/demo/upernet_convnext_atto_shapes.py
Batch: 1 process x 8 images; sized for two CPU cores
Source: our own; there is no published counterpart
Results here: see docs/demo.md
"""

_base_ = [
    "../_base_/models/upernet_convnext_atto.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
]

model = dict(decode_head=dict(num_classes=7), auxiliary_head=dict(num_classes=7))

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomCrop", crop_size=(128, 128)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=(int(160 * ratio), int(160 * ratio)), keep_ratio=True)
                for ratio in (0.75, 1, 1.25)
            ],
            [dict(type="RandomFlip", prob=prob, direction="horizontal") for prob in (0.0, 1.0)],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
dataset = dict(
    type="BaseSegDataset",
    data_root="data/shapes_ade",
    metainfo=dict(
        classes=("background", "circle", "square", "triangle", "star", "cross", "crescent"),
        palette=[
            [40, 40, 40],
            [255, 38, 38],
            [38, 99, 255],
            [160, 255, 38],
            [255, 38, 222],
            [38, 255, 226],
            [255, 157, 38],
        ],
    ),
)
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=500, val_interval=500)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=500),
]
randomness = dict(seed=0)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(decay_rate=1.0),  # nothing is pre-trained
    clip_grad=dict(max_norm=10.0),
)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=100, max_keep_ckpts=1))
