"""Mask R-CNN on ConvNeXt-atto, generated shapes (tools/make_shapes.py data/shapes), from random weights.

Run: make demo, or python tools/train.py configs/demo/mask_rcnn_convnext_atto_shapes.py
Batch: 1 process x 4 images; sized for two CPU cores
Source: our own; there is no published counterpart
Results here: see README.md
"""

_base_ = [
    "../_base_/models/mask_rcnn_convnext.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_3x.py",
]

# Narrower parts, fewer proposals and fewer sampling points than usual, so that an iteration takes half a second.
model = dict(
    # In a corner padded with zeros, all channels are equal: each LayerNorm multiplies gradients there by
    # 1 / sqrt(eps) = 1000 until the biases of random weights have moved.
    data_preprocessor=dict(pad_value=1.0),
    backbone=dict(
        arch="atto",
        # The paper's standard deviation of .02 suits 300 epochs; at these widths, blocks would start as identities and
        # learn slowly.
        init_cfg=dict(
            type="Kaiming", layer=["Conv2d", "Linear"], mode="fan_in", nonlinearity="linear", distribution="normal"
        ),
    ),
    neck=dict(in_channels=[40, 80, 160, 320], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=6),
        mask_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=6),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
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
