"""COCO 2017 with large-scale jitter: an image is resized to 0.1 to 2 times 1024 and cropped or padded to 1024 x 1024.

Source: arXiv:2301.00808, appendix A.3, which uses the augmentation of arXiv:2012.07177 (copy-paste, section 3).
Differs: the paper does not give its test size; here it is 1333x800, as for V1, at whose size the paper counts FLOPs.
"""

_base_ = "coco_instance.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=(1024, 1024),
        recompute_bbox=True,  # from what is left of the mask
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=4,  # per GPU; 8 GPUs x 4 images = 32
    dataset=dict(pipeline=train_pipeline),
)
