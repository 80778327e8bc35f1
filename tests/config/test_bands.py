"""A config is fitted to images of any number of channels: loading, augmentation, normalisation, checkpoints."""

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.config.bands import Bands, bands_of, record_bands, set_statistics, use_bands, use_trained_bands
from convnext_dense.config.datasets import config_dicts
from convnext_dense.config.reading import read_config
from convnext_dense.errors import UserError

UPERNET = "configs/segmentation/upernet_convnext_t_160k.py"


def read(name, root):
    cfg = read_config(name if "::" in name else root / name)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    return cfg


def types(cfg, *keys):
    return [step["type"] for key in keys for step in config_dicts(cfg[key]) if "type" in step]


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        (UPERNET, ["PhotoMetricDistortion"]),
        ("configs/detection/mask_rcnn_convnext_t_3x.py", []),
        ("mmdet::yolox/yolox_s_8xb8-300e_coco.py", ["Mosaic", "MixUp", "YOLOXHSVRandomAug"]),
        ("mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py", ["CachedMosaic", "CachedMixUp", "YOLOXHSVRandomAug"]),
        ("mmdet::ssd/ssd300_coco.py", ["PhotoMetricDistortion"]),
    ],
)
def test_every_pipeline_loads_bands_and_loses_what_needs_rgb(name, left_out, pytestconfig):
    cfg = read(name, pytestconfig.rootpath)
    pipelines = [key for key in cfg if key != "model"]
    num_loading = types(cfg, *pipelines).count("LoadImageFromFile")
    notes = use_bands(cfg, 5, (5, 3, 1))
    found = types(cfg, *pipelines)
    assert found.count("convnext_dense.LoadBands") == num_loading > 0
    assert "LoadImageFromFile" not in found
    assert not set(left_out) & set(found)
    assert all(name in notes[0] for name in left_out) if left_out else notes == []
    assert cfg.model.backbone.in_channels == 5
    assert not cfg.model.data_preprocessor.get("bgr_to_rgb")
    set_statistics(cfg, [1.0, 2, 3, 4, 5], [5.0, 4, 3, 2, 1])
    assert bands_of(cfg) == Bands(5, (5, 3, 1), (1, 2, 3, 4, 5), (5, 4, 3, 2, 1))
    for step in config_dicts([cfg[key] for key in pipelines]):
        if step.get("type") == "Pad" and "pad_val" in step:
            assert step["pad_val"]["img"] == (1, 2, 3, 4, 5)
        if step.get("type") == "RandomAffine":
            assert step["border_val"] == (3, 3, 3, 3)
            assert "border" not in step
        if step.get("type") == "Expand":
            assert (step["mean"], step["to_rgb"]) == ([1, 2, 3, 4, 5], False)


def test_borders_that_are_zero_stay_zero_and_one_channel_has_one_value():
    pad = dict(type="Pad", size=(8, 8), pad_val=dict(img=(0, 0, 0)))
    filled = dict(type="Pad", size=(8, 8), pad_val=dict(img=114))
    model = dict(data_preprocessor=dict(type="SegDataPreProcessor"), backbone={})
    cfg = Config(dict(model=model, test_dataloader=dict(dataset=dict(pipeline=[pad, filled]))))
    set_statistics(cfg, [7.0], [2.0])
    assert [step["pad_val"]["img"] for step in cfg.test_dataloader.dataset.pipeline] == [(0, 0, 0), 7.0]


def test_backend_and_test_time_augmentation_are_kept(pytestconfig):
    cfg = read(UPERNET, pytestconfig.rootpath)
    cfg.tta_pipeline[0].backend_args = dict(backend="petrel")
    steps = len(cfg.tta_pipeline[1].transforms)
    use_bands(cfg, 4)
    load = dict(type="convnext_dense.LoadBands", channels=4, shown=(1, 2, 3), backend_args=dict(backend="petrel"))
    assert cfg.tta_pipeline[0].to_dict() == load
    assert len(cfg.tta_pipeline[1].transforms) == steps


@pytest.mark.parametrize(
    ("channels", "shown", "expected"),
    [
        (1, None, (1,)),
        (2, None, (1,)),
        (3, None, (1, 2, 3)),
        (13, None, (1, 2, 3)),
        (4, [4], (4,)),
        (4, [4] * 3, (4,) * 3),
    ],
)
def test_shown_channels_are_the_first_unless_they_are_named(channels, shown, expected, pytestconfig):
    cfg = read(UPERNET, pytestconfig.rootpath)
    use_bands(cfg, channels, shown)
    assert bands_of(cfg).shown == expected


@pytest.mark.parametrize("shown", [[0, 1, 2], [1, 2, 5], [1, 2], []])
def test_channels_that_cannot_be_shown_are_refused(shown, pytestconfig):
    cfg = read(UPERNET, pytestconfig.rootpath)
    with pytest.raises(UserError, match=r"--bands .*must be three channels.* --channels 4 are counted from 1 to 4"):
        use_bands(cfg, 4, shown)
    with pytest.raises(UserError, match="--channels 0 must be 1 or more"):
        use_bands(cfg, 0)


def test_classifier_is_refused(pytestconfig):
    cfg = read("configs/demo/pretrain_convnext_atto_shapes.py", pytestconfig.rootpath)
    with pytest.raises(UserError, match=r"--channels is for detection and segmentation, not for .*ImageClassifier: a"):
        use_bands(cfg, 4)


def test_checkpoint_says_how_images_are_read(pytestconfig):
    cfg, other = read(UPERNET, pytestconfig.rootpath), read(UPERNET, pytestconfig.rootpath)
    use_bands(cfg, 4, (3, 2, 1))
    set_statistics(cfg, [1.5] * 4, [2.5] * 4)
    record_bands(cfg)
    metainfo = cfg.train_dataloader.dataset.metainfo
    assert type(metainfo["shown_bands"]) is tuple  # plain values, which any reader of checkpoints loads
    notes = use_trained_bands(other, metainfo, "a.pth")
    assert notes[0] == "Images have 4 channels, as a.pth was trained, with its mean and deviation."
    assert bands_of(other) == bands_of(cfg) == Bands(4, (3, 2, 1), (1.5,) * 4, (2.5,) * 4)
    assert use_trained_bands(other, metainfo, "a.pth", channels=4) == []
    use_trained_bands(other, metainfo, "a.pth", shown=[2])
    assert bands_of(other).shown == (2,)
    with pytest.raises(UserError, match=r"--channels 5 contradicts a\.pth, which was trained with --channels 4"):
        use_trained_bands(other, metainfo, "a.pth", channels=5)


def test_checkpoint_without_channels_changes_nothing(pytestconfig):
    cfg = read(UPERNET, pytestconfig.rootpath)
    before = cfg.to_dict()
    assert record_bands(cfg) == use_trained_bands(cfg, dict(classes=("a",)), "a.pth") == []
    assert cfg.to_dict() == before
    with pytest.raises(UserError, match=r"--channels 4 contradicts a\.pth, which was trained without --channels"):
        use_trained_bands(cfg, {}, "a.pth", channels=4)
    with pytest.raises(UserError, match=r"--bands chooses .*a\.pth was trained without"):
        use_trained_bands(cfg, {}, "a.pth", shown=[1])
