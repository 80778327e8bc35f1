"""UperNet on any step between ResNet and ConvNeXt, ADE20K, 160 000 iterations. The step is an option:

Run: STEP=kernel_7 REGIME=resnet50 tools/dist_train.sh configs/segmentation/roadmap/upernet_roadmap_160k.py 8
     STEP=kernel_7 REGIME=resnet50 python tools/train.py configs/segmentation/roadmap/upernet_roadmap_160k.py
         --auto-scale-lr  (one GPU)
Batch: 8 GPUs x 2 images = 16; 160 000 x 16 / 20 210 images = 127 epochs
Steps and regimes are those of configs/classification/roadmap/, from whose work_dirs the weights come.
Published: nothing; the paper trains segmenters on the last step alone, by the recipe that is taken over here
(arXiv:2201.03545v2, Table 4: upernet_convnext_t_160k.py)
Ours: not measured
"""

_base_ = [
    "../../_base_/models/roadmap_step.py",
    "../../_base_/models/upernet_convnext.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/adamw_160k.py",
]

model = dict(
    backbone=dict(
        _delete_=True,  # another class, with other arguments
        type="convnext_dense.RoadmapNet",
        step=_base_.step,
        regime=_base_.regime,
        drop_path_rate=0.4,
        norm_eval=True,  # two images per GPU are too few for the statistics of BatchNorm
        init_cfg=dict(type="Pretrained", checkpoint=_base_.weights, prefix="backbone."),
    ),
    decode_head=dict(in_channels=_base_.feature_channels),
    auxiliary_head=dict(in_channels=_base_.feature_channels[2]),
)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4))
