"""A step between ResNet and ConvNeXt, from the environment variables STEP and REGIME, and how wide its features are.

From the environment, and not from --cfg-options, because other values of a config follow from the step: the input
widths of pyramids and heads, and where the weights lie.

Source: arXiv:2201.03545v2, section 2, tables 10 and 11
"""

step = "{{$STEP:separate_downsampling}}"
regime = "{{$REGIME:resnet50}}"

# Width of the first stage up to "depthwise", after which both regimes take Swin's: 96 and 128.
narrow_widths = dict(
    resnet50=dict(original=64, enhanced_recipe=64, stage_ratio=64, patchify_stem=64, depthwise=64),
    resnet200=dict(original=64, enhanced_recipe=64, stage_ratio=84, patchify_stem=84, depthwise=84),
)
width = narrow_widths[regime].get(step, dict(resnet50=96, resnet200=128)[regime])
# A bottleneck puts out four times its width until it is inverted.
expansion = 4 if step == "width" or step in narrow_widths[regime] else 1
feature_channels = [expansion * width * 2**stage for stage in range(4)]
weights = f"work_dirs/{regime}_{step}/epoch_300.pth"
