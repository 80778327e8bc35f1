"""ConvNeXt as an image classifier for fine-tuning: no Mixup or CutMix, and a head that starts near zero.

A leaf sets `arch`, `drop_path_rate` and the weights, the latter as `init_cfg` of the whole classifier.

Source: arXiv:2201.03545v2, Table 6; https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md
"""

_base_ = "convnext_classifier.py"

model = dict(mixup=None, head_init_scale=0.001)
