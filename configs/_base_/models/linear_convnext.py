"""A linear segmentation head on the last map of a frozen ConvNeXt, for ADE20K's 150 classes, with ConvNeXt-T's widths.

A leaf sets `arch`, the weights and, from B upwards, the head's `in_channels`. The weights must have a norm that was
trained on maps, as DINOv3's have.

Source: https://github.com/facebookresearch/dinov3/tree/6876159a/dinov3/eval/segmentation (models/__init__.py,
models/heads/linear_head.py, inference.py) and dinov3/models/convnext.py
"""

_base_ = "upernet_convnext.py"

# The only modules here that need mmseg.
custom_imports = dict(imports=["convnext_dense.models.segmentor", "convnext_dense.models.linear_head"])

model = dict(
    backbone=dict(out_indices=(3,), output_norms="last", frozen_stages=4, frozen_output_norms=True),
    decode_head=dict(
        _delete_=True,
        type="convnext_dense.LinearHead",
        in_channels=768,
        in_index=0,  # of the one map that the backbone returns
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
