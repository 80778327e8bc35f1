"""UperNet on ConvNeXt V2: the differences from V1, with the widths of ConvNeXt V2-B.

Source: arXiv:2301.00808, appendix A.4. There is no official code for segmentation with V2.
"""

_base_ = "upernet_convnext.py"

model = dict(
    backbone=dict(arch="base", use_grn=True, layer_scale_init_value=0.0),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
