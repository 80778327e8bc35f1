"""Your own objects with masks in small images, named with --data DIR, sized for two CPU cores; box and mask AP.

Images are resized to squares of 320 pixels at most, or to what `finetune.object_size` makes of the data, and training
crops are of 256, or of the size of the images if that is smaller. `strong` jitters the scale more, and colours too.
"""

_base_ = "finetune_instances.py"

load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
light = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(320, 320), ratio_range=(0.7, 1.3), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(256, 256)),
]
strong = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(320, 320), ratio_range=(0.4, 1.6), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(256, 256)),
    dict(type="PhotoMetricDistortion"),
]
augmentations = dict(_delete_=True, light=light, strong=strong)
train_pipeline = [*load, *light, dict(type="PackDetInputs")]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(320, 320), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
