"""Your own label images, named with --data DIR: random scales of 0.5 to 2, crops of 512; mean IoU.

`light` jitters the scale and flips. `strong` adds colours and erased rectangles.
"""

data_root = "data/own/"

load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
light = [
    # A scale is (upper bound of the long side, of the short side); one factor from the range multiplies both.
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
]
strong = [
    *light,
    dict(type="PhotoMetricDistortion"),
    dict(type="RandomCutOut", prob=0.5, n_holes=(1, 3), cutout_ratio=[(0.1, 0.1), (0.2, 0.2)], seg_fill_in=255),
]
augmentations = dict(light=light, strong=strong)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="LoadAnnotations"),  # after Resize: predictions are compared at the original size
    dict(type="PackSegInputs"),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,  # batch norms need more than one image
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        data_prefix=dict(img_path="train", seg_map_path="semantic/train"),
        pipeline=[*load, *light, dict(type="PackSegInputs")],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        data_prefix=dict(img_path="val", seg_map_path="semantic/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="convnext_dense.IoUMetric")
test_evaluator = val_evaluator
