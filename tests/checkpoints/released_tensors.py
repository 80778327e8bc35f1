"""Names and shapes of the tensors of released files, written out as the code that wrote them builds them.

The heads are those of mmdet 2.x (necks/fpn.py, dense_heads/rpn_head.py, roi_heads/) and mmseg 0.x
(decode_heads/uper_head.py, fcn_head.py) for the configs of facebookresearch/ConvNeXt@048efcea. None of their names
changed in mmdet 3.x and mmseg 1.x. The backbones are models/convnext.py and models/convnext_isotropic.py there,
models/convnextv2.py of facebookresearch/ConvNeXt-V2@25538957, dinov3/models/convnext.py of
facebookresearch/dinov3@6876159a, and mmpretrain/models/backbones/convnext.py of open-mmlab/mmpretrain@ee7f2e88.
Tensors hold one number, spread over their shape."""

import torch

# Depths and channels of models/convnext.py and models/convnextv2.py.
SIZES = {
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
# Depth and width of models/convnext_isotropic.py, and whether there is a layer scale.
ISOTROPIC_SIZES = {"small": (18, 384, False), "base": (18, 768, False), "large": (36, 1024, True)}


def spread(*shape):
    return torch.full((1,), 0.5).expand(shape)


def convolution(name, out_channels, in_channels, size, *, bias=True):
    weights = {f"{name}.weight": spread(out_channels, in_channels, size, size)}
    return weights | ({f"{name}.bias": spread(out_channels)} if bias else {})


def linear(name, out_features, in_features):
    return {f"{name}.weight": spread(out_features, in_features), f"{name}.bias": spread(out_features)}


def batch_norm(name, channels):
    parts = {part: spread(channels) for part in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.{part}": tensor for part, tensor in parts.items()} | {
        f"{name}.num_batches_tracked": torch.tensor(1)
    }


def conv_module(name, out_channels, in_channels, size):
    """mmcv's ConvModule with a norm: no bias."""
    return convolution(f"{name}.conv", out_channels, in_channels, size, bias=False) | batch_norm(
        f"{name}.bn", out_channels
    )


def norm(name, channels):
    return {f"{name}.weight": spread(channels), f"{name}.bias": spread(channels)}


def body(arch="tiny", *, v2=False):
    """The stem, the stages and the layers between them."""
    depths, channels = SIZES[arch]
    weights = {}
    for stage, width in enumerate(channels):
        first, conv = (1, 0) if stage == 0 else (0, 1)
        before = 3 if stage == 0 else channels[stage - 1]
        weights |= norm(f"downsample_layers.{stage}.{first}", width if stage == 0 else before)
        weights |= convolution(f"downsample_layers.{stage}.{conv}", width, before, 4 if stage == 0 else 2)
        for number in range(depths[stage]):
            weights |= block(f"stages.{stage}.{number}", width, v2=v2, scaled=not v2)
    return weights


def block(name, width, *, v2=False, scaled=True):
    weights = convolution(f"{name}.dwconv", width, 1, 7) | norm(f"{name}.norm", width)
    weights |= linear(f"{name}.pwconv1", 4 * width, width) | linear(f"{name}.pwconv2", width, 4 * width)
    if scaled:
        weights |= {f"{name}.gamma": spread(width)}
    if v2:
        weights |= {f"{name}.grn.{part}": spread(1, 1, 1, 4 * width) for part in ("gamma", "beta")}
    return weights


def classifier(arch, classes=1000, *, v2=False):
    width = SIZES[arch][1][3]
    return body(arch, v2=v2) | norm("norm", width) | linear("head", classes, width)


def isotropic_classifier(arch):
    depth, width, scaled = ISOTROPIC_SIZES[arch]
    weights = convolution("stem", width, 3, 16) | norm("norm", width) | linear("head", 1000, width)
    for number in range(depth):
        weights |= block(f"blocks.{number}", width, scaled=scaled)
    return weights


def dinov3(arch):
    """The output norms of the first three stages are identities, and the last one repeats the norm."""
    width = SIZES[arch][1][3]
    return body(arch) | norm("norm", width) | norm("norms.3", width)


def backbone(arch="tiny", *, v2=False):
    """The backbone of a detector or segmenter, which has output norms."""
    weights = body(arch, v2=v2)
    for stage, width in enumerate(SIZES[arch][1]):
        weights |= norm(f"norm{stage}", width)
    return {f"backbone.{name}": tensor for name, tensor in weights.items()}


def with_mmpretrain_names(weights):
    """The same tensors as mmpretrain's backbone names and shapes them."""
    renamed = {}
    for name, tensor in weights.items():
        name = name.replace(".dwconv.", ".depthwise_conv.").replace(".pwconv", ".pointwise_conv")
        renamed[name] = tensor.flatten() if ".grn." in name else tensor
    return renamed


def pyramid_and_proposals(arch):
    weights = {}
    for level, width in enumerate(SIZES[arch][1]):
        weights |= convolution(f"neck.lateral_convs.{level}.conv", 256, width, 1)
        weights |= convolution(f"neck.fpn_convs.{level}.conv", 256, 256, 3)
    weights |= convolution("rpn_head.rpn_conv", 256, 256, 3)
    return weights | convolution("rpn_head.rpn_cls", 3, 256, 1) | convolution("rpn_head.rpn_reg", 12, 256, 1)


def mask_head(name):
    weights = {}
    for number in range(4):
        weights |= convolution(f"{name}.convs.{number}.conv", 256, 256, 3)
    return weights | convolution(f"{name}.upsample", 256, 256, 2) | convolution(f"{name}.conv_logits", 80, 256, 1)


def mask_rcnn(arch="tiny", *, v2=False):
    head = "roi_head.bbox_head"
    weights = backbone(arch, v2=v2) | pyramid_and_proposals(arch) | mask_head("roi_head.mask_head")
    weights |= linear(f"{head}.shared_fcs.0", 1024, 256 * 7 * 7) | linear(f"{head}.shared_fcs.1", 1024, 1024)
    return weights | linear(f"{head}.fc_cls", 81, 1024) | linear(f"{head}.fc_reg", 320, 1024)


def cascade_mask_rcnn(arch="tiny"):
    weights = backbone(arch) | pyramid_and_proposals(arch)
    for stage in range(3):
        head = f"roi_head.bbox_head.{stage}"
        for number in range(4):
            weights |= conv_module(f"{head}.shared_convs.{number}", 256, 256, 3)
        weights |= linear(f"{head}.shared_fcs.0", 1024, 256 * 7 * 7)
        weights |= linear(f"{head}.fc_cls", 81, 1024) | linear(f"{head}.fc_reg", 320, 1024)
        weights |= mask_head(f"roi_head.mask_head.{stage}")
    return weights


def upernet(arch="tiny"):
    weights, head, channels = backbone(arch), "decode_head", SIZES[arch][1]
    for level in range(4):
        weights |= conv_module(f"{head}.psp_modules.{level}.1", 512, channels[3], 1)
    weights |= conv_module(f"{head}.bottleneck", 512, channels[3] + 4 * 512, 3)
    for level in range(3):
        weights |= conv_module(f"{head}.lateral_convs.{level}", 512, channels[level], 1)
        weights |= conv_module(f"{head}.fpn_convs.{level}", 512, 512, 3)
    weights |= conv_module(f"{head}.fpn_bottleneck", 512, 4 * 512, 3) | convolution(f"{head}.conv_seg", 150, 512, 1)
    weights |= conv_module("auxiliary_head.convs.0", 256, channels[2], 3)
    return weights | convolution("auxiliary_head.conv_seg", 150, 256, 1)
