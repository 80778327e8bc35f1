"""UperNet on the DINOv3 ConvNeXt-B, fine-tuned on ADE20K for 160 000 iterations.

Run: tools/dist_train.sh configs/segmentation/dinov3/upernet_dinov3_convnext_b_160k.py 8
Batch: 8 GPUs x 2 images = 16; 160 000 x 16 / 20 210 images = 127 epochs
Published: nothing. The recipe is that of ConvNeXt V1 (arXiv:2201.03545v2, Appendix A.3); the weights have DINOv3's own
licence
Chosen here: everything in this file; drop path and learning rate are those of `upernet_convnext_b` there
"""

_base_ = [
    "../../_base_/models/upernet_convnext.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/adamw_160k.py",
]

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="timm:convnext_base.dinov3_lvd1689m"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4))
