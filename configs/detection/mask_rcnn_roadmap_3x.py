"""Mask R-CNN on any step between ResNet and ConvNeXt, COCO, 3x schedule. `--step` and `--regime` choose the step.

Run: tools/dist_train.sh configs/detection/mask_rcnn_roadmap_3x.py 8 --step kernel_7 --regime resnet50
     python tools/train.py configs/detection/mask_rcnn_roadmap_3x.py --step kernel_7 --auto-scale-lr  (one GPU)
Batch: 8 GPUs x 2 images = 16
Weights: those that configs/classification/roadmap_1k.py has trained for the same step and regime, from its work dir
Published: nothing; the paper trains detectors on the last step only, by the recipe that is used here
(arXiv:2201.03545v2, Table 3: mask_rcnn_convnext_t_3x.py)
"""

_base_ = [
    "../_base_/models/mask_rcnn_convnext.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_3x.py",
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
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.95))
work_dir = "work_dirs/mask_rcnn_resnet50_separate_downsampling"
