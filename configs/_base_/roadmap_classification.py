"""ImageNet-1K from scratch for a step between ResNet and ConvNeXt: ConvNeXt's recipe without the moving average.

A leaf gives `step` and, towards ConvNeXt-B, `regime` and `drop_path_rate`. The paper's three seeds are three runs with
`--cfg-options randomness.seed=1` and so on.

Source: arXiv:2201.03545v2, section 2.1, appendix A.1 and table 5 (recipe); appendix C, tables 10 and 11 (results)
"""

_base_ = [
    "models/convnext_classifier.py",
    "datasets/imagenet_1k.py",
    "schedules/adamw_300e.py",
]

model = dict(
    backbone=dict(
        _delete_=True,  # another class, with other arguments
        type="convnext_dense.RoadmapNet",
        step="separate_downsampling",
        regime="resnet50",
        drop_path_rate=0.1,  # table 5, ConvNeXt-T
        out_indices=(3,),
        output_norms="none",
    ),
)
# The paper's runs have no moving average, because it hurts networks with BatchNorm.
custom_hooks = []
