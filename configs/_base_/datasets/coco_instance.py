"""COCO 2017 with boxes and masks, in `data/coco/`: multi-scale training, 1333x800 testing, box and mask AP.

Half of the training images are resized; the other half are resized, cropped and resized again (the
augmentation of DETR and Sparse R-CNN).

Source: the train_pipeline of every file in
https://github.com/facebookresearch/ConvNeXt/tree/048efcea/object_detection/configs/convnext and, for the rest,
configs/_base_/datasets/coco_instance.py in SwinTransformer/Swin-Transformer-Object-Detection@c7b20110.
"""

data_root = "data/coco/"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
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
                    scales=[(short, 1333) for short in (400, 500, 600)],
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
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=2,  # per GPU; 8 GPUs x 2 images = 16
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),  # a batch is padded to its largest image
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="convnext_dense.CocoMetric",
    ann_file=data_root + "annotations/instances_val2017.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator
