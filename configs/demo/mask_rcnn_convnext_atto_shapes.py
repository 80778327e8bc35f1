"""Mask R-CNN on ConvNeXt-atto, generated shapes (tools/make_shapes.py data/shapes), from random weights.

Run: make demo, or python tools/train.py configs/demo/mask_rcnn_convnext_atto_shapes.py
Batch: 1 process x 4 images; sized for two CPU cores
Source: our own; there is no published counterpart
Results here: see docs/demo.md
"""

_base_ = [
    "../_base_/models/mask_rcnn_convnext_atto.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_3x.py",
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes=6),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(num_classes=6),
    ),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
dataset = dict(
    data_root="data/shapes/",
    metainfo=dict(classes=("circle", "square", "triangle", "star", "cross", "crescent")),
)
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/shapes/annotations/instances_val2017.json")
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=6, val_interval=6)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", begin=0, end=6, eta_min_ratio=0.01, convert_to_iter_based=True),
]
randomness = dict(seed=0)
optim_wrapper = dict(
    optimizer=dict(lr=1.5e-3),
    paramwise_cfg=dict(decay_rate=1.0),  # nothing is pre-trained
    clip_grad=dict(max_norm=10.0),
)
default_hooks = dict(logger=dict(interval=24), checkpoint=dict(max_keep_ckpts=1))
