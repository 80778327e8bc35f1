"""Channels of a neck compared with those of the backbone."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config

from convnext_dense.engine.faults import check_widths
from convnext_dense.models import ConvNeXt

ARCH = dict(depths=(1, 1, 1, 1), channels=(8, 16, 32, 64))
CONFIG = Config(dict(model=dict(backbone=dict(arch=ARCH))))


def model(in_channels):
    backbone = ConvNeXt(ARCH, out_indices=(1, 2, 3))
    return SimpleNamespace(backbone=backbone, neck=SimpleNamespace(in_channels=in_channels))


@pytest.mark.parametrize("in_channels", [[16, 32, 64], (64, 32, 16), 64, None])
def test_neck_with_the_backbones_channels_is_accepted(in_channels):
    """YOLOX and RTMDet read only three stages; YOLOv3's neck lists the deepest first."""
    check_widths(model(in_channels), CONFIG)


@pytest.mark.parametrize("in_channels", [[8, 16, 32, 64], [16, 32], [64, 64, 16]])
def test_neck_with_other_channels_is_named(in_channels):
    with pytest.raises(ValueError, match=r"\(arch=.*, out_indices=\(1, 2, 3\)\) gives \[16, 32, 64\]"):
        check_widths(model(in_channels), CONFIG)
