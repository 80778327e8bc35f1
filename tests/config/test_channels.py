"""Detectors take images with any number of channels; mismatches are reported."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings

from convnext_dense.config.channels import fit_to_channels


def config(channels, kind="DetDataPreprocessor", **preprocessor):
    preprocessor = dict(type=kind, **preprocessor)
    return Config(dict(model=dict(backbone=dict(in_channels=channels), data_preprocessor=preprocessor)))


def preprocess(cfg, images):
    init_default_scope("mmdet")
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    return preprocessor(dict(inputs=images, data_samples=None))["inputs"]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_every_channel_is_normalised_by_its_own_mean(channels):
    mean, std = [10.0 * i for i in range(channels)], [1.0 + i for i in range(channels)]
    cfg = config(channels, mean=mean, std=std, pad_size_divisor=8)
    assert "convnext_dense.DetDataPreprocessor" in fit_to_channels(cfg)[0]
    image = torch.arange(channels * 6, dtype=torch.uint8).reshape(channels, 2, 3)
    (prepared,) = preprocess(cfg, [image])
    expected = (image.numpy() - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(prepared[:, :2, :3], expected, rtol=1e-6)
    assert prepared.shape == (channels, 8, 8)
    assert prepared[:, 2:].abs().sum() == prepared[:, :, 3:].abs().sum() == 0
    np.testing.assert_allclose(preprocess(cfg, image[None])[0, :, :2, :3], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("channels", "order"), [(1, [0]), (2, [0, 1]), (3, [2, 1, 0]), (4, [2, 1, 0, 3]), (5, [2, 1, 0, 3, 4])]
)
def test_only_colour_channels_are_reordered(channels, order):
    import_modules_from_strings(["convnext_dense.models.detector_input"])
    cfg = config(channels, "convnext_dense.DetDataPreprocessor", mean=[0.0], std=[1.0], bgr_to_rgb=True)
    fit_to_channels(cfg)
    image = torch.rand(channels, 4, 4)
    torch.testing.assert_close(preprocess(cfg, [image])[0], image[order])


def test_colour_config_stays_unchanged():
    cfg = config(3, mean=[1.0] * 3, std=[1.0] * 3, bgr_to_rgb=True)
    before = cfg.to_dict()
    assert fit_to_channels(cfg) == []
    assert cfg.to_dict() == before
    assert fit_to_channels(Config(dict(model=dict(type="ImageClassifier", backbone=dict(in_channels=3))))) == []


def test_changed_config_is_changed_once_and_names_the_module():
    cfg = config(4, mean=[1.0] * 4, std=[1.0] * 4)
    assert len(fit_to_channels(cfg)) == 1
    before = cfg.to_dict()
    assert fit_to_channels(cfg) == []
    assert cfg.to_dict() == before
    assert cfg.custom_imports["imports"] == ["convnext_dense.models.detector_input"]


@pytest.mark.parametrize("kind", ["DetDataPreprocessor", "mmdet.DetDataPreprocessor", "SegDataPreProcessor"])
@pytest.mark.parametrize(
    ("channels", "mean", "std", "name"),
    [(4, 3, 3, "mean"), (3, 4, 4, "mean"), (1, 3, 3, "mean"), (4, 4, 3, "std"), (3, 3, 2, "std")],
)
def test_mean_and_std_of_another_length_are_reported(kind, channels, mean, std, name):
    cfg = config(channels, kind, mean=[1.0] * mean, std=[1.0] * std)
    with pytest.raises(ValueError, match=rf"model\.data_preprocessor\.{name}=.* must have one value per channel, "):
        fit_to_channels(cfg)


def test_image_of_other_channels_than_the_mean_is_reported():
    cfg = config(4, mean=[1.0] * 4, std=[1.0] * 4)
    fit_to_channels(cfg)
    with pytest.raises(ValueError, match=r"An image has 3 channels, but model\.data_preprocessor\.mean has 4 values"):
        preprocess(cfg, [torch.zeros(3, 4, 4)])


def test_segmenters_unchanged_channel_order_is_reported():
    cfg = config(4, "SegDataPreProcessor", mean=[1.0] * 4, std=[1.0] * 4, bgr_to_rgb=True)
    assert "swaps only three channels: 4 stay in the order of the file" in fit_to_channels(cfg)[0]
