"""Mask R-CNN on ConvNeXt-atto for a small data set of your own with many small objects, from random weights.

Run: python tools/train.py configs/demo/mask_rcnn_convnext_atto_scratch.py --data DIR
Batch: 1 process x 4 images; sized for two CPU cores
Source: our own; there is no published counterpart
Results here: see docs/accuracy.md
"""

_base_ = "mask_rcnn_convnext_atto_shapes.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="RandomResize", scale=(448, 448), ratio_range=(0.7, 1.3), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(256, 256)),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(448, 448), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),  # anchors of 16 to 256 pixels
    roi_head=dict(mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2))),
    train_cfg=dict(rpn_proposal=dict(nms_pre=1000, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=400), rcnn=dict(max_per_img=200)),
)
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=18, val_interval=6)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=75),
    dict(type="CosineAnnealingLR", begin=0, end=18, eta_min_ratio=0.01, convert_to_iter_based=True),
]
