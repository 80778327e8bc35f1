"""UperNet on the DINOv3 ConvNeXt-S, fine-tuned on ADE20K for 160 000 iterations.

Run: tools/dist_train.sh configs/segmentation/dinov3/upernet_dinov3_convnext_s_160k.py 8
Batch: 8 GPUs x 2 images = 16; 160 000 x 16 / 20 210 images = 127 epochs
Published: nothing. The recipe is that of ConvNeXt V1 (arXiv:2201.03545v2, Appendix A.3); the weights have DINOv3's own
licence
Chosen here: everything in this file; drop path and learning rate are those of `upernet_convnext_s` there
"""

_base_ = [
    "../../_base_/models/upernet_convnext.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/adamw_160k.py",
]

model = dict(
    backbone=dict(
        arch="small",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm:convnext_small.dinov3_lvd1689m"),
    ),
)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4))
