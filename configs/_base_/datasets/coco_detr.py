"""COCO 2017 with boxes and without masks, in `data/coco/`, as DETR-like detectors are trained on it; box AP.

Half of the training images are resized; the other half are resized, cropped and resized again.

Source: https://github.com/IDEA-Research/detrex/blob/e244e6c3/configs/common/data/coco_detr.py
Differs: the first resize of the second half has no upper bound there; here it is 4200 pixels, which images with sides
up to 7:1 never reach.
"""

_base_ = "coco_instance.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    # A scale is (short side, upper bound of the long side); the order does not matter when the aspect ratio is kept.
    dict(
        type="RandomChoice",
        transforms=[
            [
                dict(
                    type="RandomChoiceResize",
                    scales=[(short, 1333) for short in range(480, 801, 32)],
                    keep_ratio=True,
                ),
            ],
            [
                dict(
                    type="RandomChoiceResize",
                    scales=[(short, 4200) for short in (400, 500, 600)],
                    keep_ratio=True,
                ),
                # Height and width are each drawn from 384 to 600 and never exceed the image.
                dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
                dict(
                    type="RandomChoiceResize",
                    scales=[(short, 1333) for short in range(480, 801, 32)],
                    keep_ratio=True,
                ),
            ],
        ],
    ),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    # After Resize: the visualisation hook draws in the pixels of the original image.
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    num_workers=4,
    dataset=dict(filter_cfg=dict(_delete_=True, filter_empty_gt=True), pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
