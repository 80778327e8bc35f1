"""UperNet, ConvNeXt-B with ImageNet-22K weights, ADE20K, 160 000 iterations, crops of 640.

Run: tools/dist_train.sh configs/segmentation/upernet_convnext_b_22k_640_160k.py 8
Batch: 8 GPUs x 2 images = 16; 160 000 x 16 / 20 210 images = 127 epochs
Source: arXiv:2201.03545v2, Table 4 (results) and Appendix A.3 (recipe);
https://github.com/facebookresearch/ConvNeXt/blob/048efcea/semantic_segmentation/configs/convnext/upernet_convnext_base_640_160k_ade20k_ss.py
"""

_base_ = [
    "../_base_/models/upernet_convnext.py",
    "../_base_/datasets/ade20k_640.py",
    "../_base_/schedules/adamw_160k.py",
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch="base",
        drop_path_rate=0.4,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth"
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),
)
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=1e-4))  # the official run was in fp16 (apex)
