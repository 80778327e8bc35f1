"""UperNet on ConvNeXt V2: what it changes in V1's. Widths are those of ConvNeXt V2-B.

Source: arXiv:2301.00808, appendix A.4. There is no official code for segmentation with V2.
"""

_base_ = "upernet_convnext.py"

model = dict(
    backbone=dict(arch="base", use_grn=True, layer_scale_init_value=0.0),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
