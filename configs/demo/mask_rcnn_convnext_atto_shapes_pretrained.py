"""Mask R-CNN on ConvNeXt-atto, generated shapes, from a backbone pre-trained on single shapes.

Run: make demo, or after configs/demo/pretrain_convnext_atto_shapes.py
     python tools/train.py configs/demo/mask_rcnn_convnext_atto_shapes_pretrained.py
Batch: 1 process x 4 images; sized for two CPU cores
Source: our own; there is no published counterpart
Results here: see docs/demo.md
"""

_base_ = "mask_rcnn_convnext_atto_shapes.py"

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True, type="Pretrained", checkpoint="work_dirs/pretrain_convnext_atto_shapes/epoch_5.pth"
        )
    )
)
