"""UperNet, ConvNeXt-XL with ImageNet-22K weights, ADE20K, 160 000 iterations, crops of 640.

Run: tools/dist_train.sh configs/segmentation/upernet_convnext_xl_22k_640_160k.py 8
Batch: 8 GPUs x 2 images = 16; 160 000 x 16 / 20 210 images = 127 epochs
Source: arXiv:2201.03545v2, Table 4 (results) and Appendix A.3 (recipe);
https://github.com/facebookresearch/ConvNeXt/blob/048efcea/semantic_segmentation/configs/convnext/upernet_convnext_xlarge_640_160k_ade20k_ss.py
"""

_base_ = "upernet_convnext_l_22k_640_160k.py"

model = dict(
    backbone=dict(
        arch="xlarge",
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth"),
    ),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)
optim_wrapper = dict(optimizer=dict(lr=8e-5))
