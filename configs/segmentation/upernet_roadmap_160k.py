"""UperNet on any step between ResNet and ConvNeXt, ADE20K, 160 000 iterations. `--step` and `--regime` choose the step.

Run: tools/dist_train.sh configs/segmentation/upernet_roadmap_160k.py 8 --step kernel_7 --regime resnet50
     python tools/train.py configs/segmentation/upernet_roadmap_160k.py --step kernel_7 --auto-scale-lr  (one GPU)
Batch: 8 GPUs x 2 images = 16; 160 000 x 16 / 20 210 images = 127 epochs
Weights: those that configs/classification/roadmap_1k.py has trained for the same step and regime, from its work dir
Published: nothing; the paper trains segmenters on the last step only, by the recipe that is used here
(arXiv:2201.03545v2, Table 4: upernet_convnext_t_160k.py)
"""

_base_ = [
    "../_base_/models/upernet_convnext.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/adamw_160k.py",
]

model = dict(
    backbone=dict(
        _delete_=True,  # another class, with other arguments
        type="convnext_dense.RoadmapNet",
        step="separate_downsampling",
        regime="resnet50",
        drop_path_rate=0.4,
        norm_eval=True,  # two images per GPU are too few for BatchNorm's statistics
        init_cfg=dict(
            type="Pretrained", checkpoint="work_dirs/resnet50_separate_downsampling/epoch_300.pth", prefix="backbone."
        ),
    ),
)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4))
work_dir = "work_dirs/upernet_resnet50_separate_downsampling"
