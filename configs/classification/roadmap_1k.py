"""Any step between ResNet and ConvNeXt, trained from scratch on ImageNet-1K by ConvNeXt's recipe without EMA.

Run: tools/dist_train.sh configs/classification/roadmap_1k.py 8 --step kernel_7 --regime resnet50
     python tools/train.py configs/classification/roadmap_1k.py --step kernel_7 --regime resnet50
Batch: 4 nodes x 8 GPUs x 128 images = 4096
Steps: listed by `tools/describe.py --table roadmap`. To repeat the paper's three seeds, train three times with
`--cfg-options randomness.seed=1` and so on.
Source: arXiv:2201.03545v2, section 2.1, appendix A.1 and table 5 (recipe); appendix C, tables 10 and 11 (results)
Chosen here: drop path 0.5 towards ConvNeXt-B; it is published for ConvNeXt-B, trained with a moving average, but not
for the steps that lead to it
"""

_base_ = [
    "../_base_/models/convnext_classifier.py",
    "../_base_/datasets/imagenet_1k.py",
    "../_base_/schedules/adamw_300e.py",
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
drop_path_rates = dict(resnet50=0.1, resnet200=0.5)
# The paper trains these steps without a moving average, which hurts networks with BatchNorm.
custom_hooks = []
work_dir = "work_dirs/resnet50_separate_downsampling"
