"""UperNet, ConvNeXt V2-L with FCMAE weights fine-tuned on ImageNet-1K, ADE20K, 160 000 iterations.

Run: tools/dist_train.sh configs/segmentation/v2/upernet_convnextv2_l_160k.py 8
Batch: 8 GPUs x 2 images = 16; 160 000 x 16 / 20 210 images = 127 epochs
Source: arXiv:2301.00808, Table 7 (result, multi-scale: --tta) and Appendix A.4 (recipe); the weights are CC-BY-NC 4.0
Chosen here, within the published sweeps: learning rate 1e-4 (of 1e-4, 2e-4, 3e-4), decay rate 0.9 (of 0.8, 0.9),
drop path 0.3 (of 0.1 to 0.4)
Chosen here, where nothing is published: mixed precision, stage-wise decay and warm-up as for V1
"""

_base_ = [
    "../../_base_/models/upernet_convnextv2.py",
    "../../_base_/datasets/ade20k_v2.py",
    "../../_base_/schedules/adamw_160k.py",
]

model = dict(
    backbone=dict(
        arch="large",
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_large_1k_224_ema.pt",
        ),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.9))
