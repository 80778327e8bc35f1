"""FCMAE: a ConvNeXt V2 that learns to paint hidden patches of 32 pixels, 60 % of an image.

A leaf sets `arch`.

Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/25539587/models/fcmae.py; arXiv:2301.00808, section 3 and
Table 8 (recipe), Table 4 (mask ratio, decoder)
"""

model = dict(
    type="convnext_dense.MaskedAutoencoder",
    backbone=dict(type="convnext_dense.ConvNeXt", arch="base", use_grn=True, layer_scale_init_value=0.0),
    mask_ratio=0.6,
    decoder_channels=512,
    decoder_depth=1,
    normalises_targets=True,
)
