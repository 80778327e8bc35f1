"""Your own label images of small size, named with --data DIR, sized for two CPU cores; mean IoU.

Images are resized to squares of 256 pixels at most, and training crops are of 128. `strong` adds colours.
"""

_base_ = "finetune_segmentation.py"

load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
light = [
    dict(type="RandomResize", scale=(256, 256), ratio_range=(0.7, 1.4), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(128, 128), cat_max_ratio=0.95),
    dict(type="RandomFlip", prob=0.5),
]
strong = [*light, dict(type="PhotoMetricDistortion")]
augmentations = dict(_delete_=True, light=light, strong=strong)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(256, 256), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=[*load, *light, dict(type="PackSegInputs")]))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
