"""UperNet on ConvNeXt-atto from random weights, sized for two CPU cores: the differences from the usual one.

Source: our own; there is no published counterpart
"""

_base_ = "upernet_convnext.py"

model = dict(
    # In a corner padded with zeros, all channels are equal: each LayerNorm multiplies gradients there by
    # 1 / sqrt(eps) = 1000 until the biases of random weights have moved.
    data_preprocessor=dict(pad_val=1.0, size=(128, 128)),
    backbone=dict(
        arch="atto",
        # The paper's standard deviation of .02 suits 300 epochs; at these widths, blocks would start as identities and
        # learn slowly.
        init_cfg=dict(
            type="Kaiming", layer=["Conv2d", "Linear"], mode="fan_in", nonlinearity="linear", distribution="normal"
        ),
    ),
    decode_head=dict(in_channels=[40, 80, 160, 320], channels=64),
    auxiliary_head=dict(in_channels=160, channels=32),
    test_cfg=dict(crop_size=(128, 128), stride=(96, 96)),
)
