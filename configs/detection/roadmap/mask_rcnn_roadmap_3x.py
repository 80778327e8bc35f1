"""Mask R-CNN on any step between ResNet and ConvNeXt, COCO, 3x schedule. The step is an option:

Run: STEP=kernel_7 REGIME=resnet50 tools/dist_train.sh configs/detection/roadmap/mask_rcnn_roadmap_3x.py 8
     STEP=kernel_7 REGIME=resnet50 python tools/train.py configs/detection/roadmap/mask_rcnn_roadmap_3x.py
         --auto-scale-lr  (one GPU)
Batch: 8 GPUs x 2 images = 16
Steps and regimes are those of configs/classification/roadmap/, from whose work_dirs the weights come.
Published: nothing; the paper trains detectors on the last step alone, by the recipe that is taken over here
(arXiv:2201.03545v2, Table 3: mask_rcnn_convnext_t_3x.py)
Ours: not measured
"""

_base_ = [
    "../../_base_/models/roadmap_step.py",
    "../../_base_/models/mask_rcnn_convnext.py",
    "../../_base_/datasets/coco_instance.py",
    "../../_base_/schedules/adamw_3x.py",
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
    neck=dict(in_channels=_base_.feature_channels),
)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.95))
