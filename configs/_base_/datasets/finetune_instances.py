"""Your own objects with masks, named with --data DIR: the differences from boxes; box and mask AP.

`strong` also pastes objects of other images, by their masks (arXiv:2012.07177).
"""

_base_ = "finetune_boxes.py"

load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
light = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomChoiceResize", scales=[(short, 1333) for short in range(480, 801, 32)], keep_ratio=True),
]
strong = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    # The box is that of what is left of the mask.
    dict(type="RandomCrop", crop_size=(1024, 1024), recompute_bbox=True, allow_negative_crop=True),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2), keep_empty=False),
    dict(type="Pad", size=(1024, 1024)),  # only images of one size can be pasted into each other
    dict(type="CopyPaste", max_num_pasted=100),
    dict(type="PhotoMetricDistortion"),
]
augmentations = dict(light=light, strong=strong)
train_pipeline = [*load, *light, dict(type="PackDetInputs")]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = val_evaluator
