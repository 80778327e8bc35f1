"""The official COCO and ADE20K releases, with the head names of mmdet 2.x and mmseg 0.x, fill our models.

The names are those of released_tensors.py."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from released_tensors import cascade_mask_rcnn, mask_rcnn, upernet

from convnext_dense.checkpoints import convert_state_dict, load_weights

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"


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
            in_channels=[96, 192, 384, 768],
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
