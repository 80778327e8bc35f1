"""Your own boxes, named with --data DIR: images of 480 to 800 pixels for training, 1333x800 for testing; box AP.

`light` resizes and flips. `strong` adds large-scale jitter (arXiv:2012.07177, its stronger range) and colours.
"""

_base_ = "coco_detr.py"

data_root = "data/own/"

load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
light = [
    dict(type="RandomFlip", prob=0.5),
    # A scale is (short side, upper bound of the long side); the order does not matter when the aspect ratio is kept.
    dict(type="RandomChoiceResize", scales=[(short, 1333) for short in range(480, 801, 32)], keep_ratio=True),
]
strong = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(1024, 1024), allow_negative_crop=True),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2), keep_empty=False),
    dict(type="PhotoMetricDistortion"),
]
augmentations = dict(light=light, strong=strong)
train_pipeline = [*load, *light, dict(type="PackDetInputs")]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(
        data_root=data_root,
        ann_file="instances_train.json",
        data_prefix=dict(img="train/"),
        filter_cfg=dict(filter_empty_gt=False),  # images without objects teach what is background
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root, ann_file="instances_val.json", data_prefix=dict(img="val/"), pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + "instances_val.json")
test_evaluator = val_evaluator
