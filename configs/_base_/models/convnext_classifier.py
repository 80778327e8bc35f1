"""ConvNeXt as an image classifier for 1000 classes, with Mixup, CutMix and label smoothing for training from scratch.

A leaf sets `arch` and `drop_path_rate`.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea/models/convnext.py and main.py; arXiv:2201.03545v2
"""

model = dict(
    type="convnext_dense.ImageClassifier",
    backbone=dict(
        type="convnext_dense.ConvNeXt",
        arch="tiny",
        out_indices=(3,),
        output_norms="none",  # the classifier's own norm follows the pooling
        layer_scale_init_value=1e-6,
    ),
    num_classes=1000,
    head_init_scale=1.0,
    label_smoothing=0.1,
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch"),
)
