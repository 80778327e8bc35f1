"""Channels of a neck compared with those of the backbone."""

from types import SimpleNamespace
from urllib.error import URLError

import pytest
from mmengine.config import Config

from convnext_dense.engine.faults import check_widths, name_config_faults, name_missing_weights
from convnext_dense.errors import UserError
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


@pytest.mark.parametrize("naming", [name_config_faults, name_missing_weights])
def test_weights_that_cannot_be_downloaded_are_named(naming):
    backbone = dict(type="ResNet", init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"))
    cfg = Config(dict(model=dict(type="RetinaNet", backbone=backbone)))
    with (
        pytest.raises(UserError, match=r"Name or service not known.*torchvision://resnet50.*init_cfg=None"),
        naming(cfg),
    ):
        raise URLError("[Errno -2] Name or service not known")
