"""ConvNeXt as an image classifier that is fine-tuned: no mixing, a head that starts near zero.

A leaf gives `arch`, `drop_path_rate` and the weights, as `init_cfg` of the whole classifier.

Source: arXiv:2201.03545v2, Table 6; https://github.com/facebookresearch/ConvNeXt/blob/048efcea/TRAINING.md
"""

_base_ = "convnext_classifier.py"

model = dict(mixup=None, head_init_scale=0.001)
