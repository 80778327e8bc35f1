"""ConvNeXt V2 as an image classifier that starts from FCMAE weights.

A leaf sets `arch`, `drop_path_rate`, the label smoothing and the encoder's weights.

Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/25539587/TRAINING.md, main_finetune.py
"""

_base_ = "convnext_classifier.py"

model = dict(backbone=dict(use_grn=True, layer_scale_init_value=0.0), head_init_scale=0.001)
