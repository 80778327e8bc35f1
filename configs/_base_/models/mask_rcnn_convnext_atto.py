"""Mask R-CNN on ConvNeXt-atto from random weights, sized for two CPU cores: the differences from the usual one.

The parts are narrower, and there are fewer proposals and sampling points, so that an iteration takes half a second.

Source: our own; there is no published counterpart
"""

_base_ = "mask_rcnn_convnext.py"

model = dict(
    # In a corner padded with zeros, all channels are equal: each LayerNorm multiplies gradients there by
    # 1 / sqrt(eps) = 1000 until the biases of random weights have moved.
    data_preprocessor=dict(pad_value=1.0),
    backbone=dict(
        arch="atto",
        # The paper's standard deviation of .02 suits 300 epochs; at these widths, blocks would start as identities and
        # learn slowly.
        init_cfg=dict(
            type="Kaiming", layer=["Conv2d", "Linear"], mode="fan_in", nonlinearity="linear", distribution="normal"
        ),
    ),
    neck=dict(in_channels=[40, 80, 160, 320], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
