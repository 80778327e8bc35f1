"""The official COCO and ADE20K releases, with the head names of mmdet 2.x and mmseg 0.x, fill our models.

The names are written out here as mmdet 2.x (necks/fpn.py, dense_heads/rpn_head.py, roi_heads/) and mmseg 0.x
(decode_heads/uper_head.py, fcn_head.py) built them for the configs of facebookresearch/ConvNeXt@048efcea. None of them
changed in mmdet 3.x and mmseg 1.x. Files hold one number per tensor, spread over its shape."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.checkpoints import convert_state_dict, load_weights

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
DEPTHS = (3, 3, 9, 3)
CHANNELS = (96, 192, 384, 768)


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


def backbone():
    weights = {}
    for stage, width in enumerate(CHANNELS):
        weights |= {f"norm{stage}.weight": spread(width), f"norm{stage}.bias": spread(width)}
        norm, conv = (1, 0) if stage == 0 else (0, 1)
        before = 3 if stage == 0 else CHANNELS[stage - 1]
        normed = width if stage == 0 else before
        weights |= {f"downsample_layers.{stage}.{norm}.{kind}": spread(normed) for kind in ("weight", "bias")}
        weights |= convolution(f"downsample_layers.{stage}.{conv}", width, before, 4 if stage == 0 else 2)
        for block in range(DEPTHS[stage]):
            name = f"stages.{stage}.{block}"
            weights |= {f"{name}.gamma": spread(width)} | convolution(f"{name}.dwconv", width, 1, 7)
            weights |= {f"{name}.norm.{kind}": spread(width) for kind in ("weight", "bias")}
            weights |= linear(f"{name}.pwconv1", 4 * width, width) | linear(f"{name}.pwconv2", width, 4 * width)
    return {f"backbone.{name}": tensor for name, tensor in weights.items()}


def pyramid_and_proposals():
    weights = {}
    for level, width in enumerate(CHANNELS):
        weights |= convolution(f"neck.lateral_convs.{level}.conv", 256, width, 1)
        weights |= convolution(f"neck.fpn_convs.{level}.conv", 256, 256, 3)
    weights |= convolution("rpn_head.rpn_conv", 256, 256, 3)
    return weights | convolution("rpn_head.rpn_cls", 3, 256, 1) | convolution("rpn_head.rpn_reg", 12, 256, 1)


def mask_head(name):
    weights = {}
    for number in range(4):
        weights |= convolution(f"{name}.convs.{number}.conv", 256, 256, 3)
    return weights | convolution(f"{name}.upsample", 256, 256, 2) | convolution(f"{name}.conv_logits", 80, 256, 1)


def mask_rcnn():
    head = "roi_head.bbox_head"
    weights = backbone() | pyramid_and_proposals() | mask_head("roi_head.mask_head")
    weights |= linear(f"{head}.shared_fcs.0", 1024, 256 * 7 * 7) | linear(f"{head}.shared_fcs.1", 1024, 1024)
    return weights | linear(f"{head}.fc_cls", 81, 1024) | linear(f"{head}.fc_reg", 320, 1024)


def cascade_mask_rcnn():
    weights = backbone() | pyramid_and_proposals()
    for stage in range(3):
        head = f"roi_head.bbox_head.{stage}"
        for number in range(4):
            weights |= conv_module(f"{head}.shared_convs.{number}", 256, 256, 3)
        weights |= linear(f"{head}.shared_fcs.0", 1024, 256 * 7 * 7)
        weights |= linear(f"{head}.fc_cls", 81, 1024) | linear(f"{head}.fc_reg", 320, 1024)
        weights |= mask_head(f"roi_head.mask_head.{stage}")
    return weights


def upernet():
    weights, head = backbone(), "decode_head"
    for level in range(4):
        weights |= conv_module(f"{head}.psp_modules.{level}.1", 512, 768, 1)
    weights |= conv_module(f"{head}.bottleneck", 512, 768 + 4 * 512, 3)
    for level in range(3):
        weights |= conv_module(f"{head}.lateral_convs.{level}", 512, CHANNELS[level], 1)
        weights |= conv_module(f"{head}.fpn_convs.{level}", 512, 512, 3)
    weights |= conv_module(f"{head}.fpn_bottleneck", 512, 4 * 512, 3) | convolution(f"{head}.conv_seg", 150, 512, 1)
    weights |= conv_module("auxiliary_head.convs.0", 256, 384, 3)
    return weights | convolution("auxiliary_head.conv_seg", 150, 256, 1)


def release(weights, path):
    """`meta`, `state_dict` and nothing else, as mmcv 1.x saved after the optimizer was taken out."""
    torch.save({"meta": {"CLASSES": ("person",), "epoch": 36}, "state_dict": weights}, path)
    return path


def assert_filled(model, path, weights):
    report = load_weights(model, path)
    assert (report.missing, report.new, report.mismatched, report.unexpected) == ((), (), (), ())
    assert report.layout == "official_dense"
    assert set(report.loaded) == set(weights)


@pytest.fixture
def build(monkeypatch):
    def build(scope, model):
        init_default_scope(scope)
        return MODELS.build(model)

    # Skip random initialization, which takes longer than everything else here.
    monkeypatch.setattr("torch.nn.init.trunc_normal_", lambda tensor, **_: tensor)
    return build


@pytest.mark.parametrize(
    ("config", "weights"), [("mask_rcnn_convnext_t_3x", mask_rcnn()), ("cascade_convnext_t_3x", cascade_mask_rcnn())]
)
def test_official_coco_release_fills_our_detector(build, tmp_path, config, weights):
    cfg = Config.fromfile(CONFIGS / f"{config}.py")
    cfg.model.backbone.init_cfg = None
    assert_filled(build("mmdet", cfg.model), release(weights, tmp_path / "release.pth"), weights)


def segmenter():
    norm_cfg = dict(type="BN", requires_grad=True)
    head = dict(num_classes=150, norm_cfg=norm_cfg, align_corners=False)
    return dict(
        type="mmseg.EncoderDecoder",
        backbone=dict(type="convnext_dense.ConvNeXt", arch="tiny"),
        decode_head=dict(
            type="UPerHead",
            in_channels=list(CHANNELS),
            in_index=[0, 1, 2, 3],
            channels=512,
            pool_scales=(1, 2, 3, 6),
            **head,
        ),
        auxiliary_head=dict(
            type="FCNHead", in_channels=384, in_index=2, channels=256, num_convs=1, concat_input=False, **head
        ),
        train_cfg={},
        test_cfg=dict(mode="whole"),
    )


def test_official_ade20k_release_fills_upernet(build, tmp_path):
    weights = upernet()
    assert_filled(build("mmseg", segmenter()), release(weights, tmp_path / "release.pth"), weights)


def test_segmenter_of_mmpretrains_backbone_fills_ours(build, tmp_path):
    """mmseg's own ConvNeXt releases hold mmpretrain's names under `backbone.`, output norms included."""
    weights = upernet()
    body = {name: tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    others = {name: tensor for name, tensor in weights.items() if name not in body}
    theirs = convert_state_dict(body, "mmpretrain") | others
    assert "backbone.stages.0.0.depthwise_conv.weight" in theirs
    model = build("mmseg", segmenter())
    report = load_weights(model, release(theirs, tmp_path / "release.pth"))
    assert (report.layout, report.missing, report.new, report.unexpected) == ("mmpretrain", (), (), ())


def test_backbone_of_a_detector_is_written_for_timm_without_its_output_norms(official_v1):
    norms = {f"norm{stage}.weight": torch.rand(8 * 2**stage) for stage in range(4)}
    body = {name: tensor for name, tensor in official_v1.items() if not name.startswith(("norm.", "head."))}
    detector = {f"backbone.{name}": tensor for name, tensor in (body | norms).items()} | {"neck.weight": torch.rand(1)}
    with pytest.raises(
        ValueError, match=r"1 tensors, such as neck\.weight, are not part .* part='backbone' leaves them"
    ):
        convert_state_dict(detector, "timm")
    written = convert_state_dict(detector, "timm", part="backbone")
    assert set(convert_state_dict(written)) == set(body)
