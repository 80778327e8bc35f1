"""Replace the backbone of any mmdet or mmseg config by ConvNeXt."""

from convnext_dense.config.differences import ConfigDiff, diff_configs
from convnext_dense.plug.changing import change_backbone
from convnext_dense.plug.default_weights import default_weights
from convnext_dense.plug.plugging import has_weights, parse_backbone, plug_backbone
from convnext_dense.plug.road import take_step

__all__ = [
    "ConfigDiff",
    "change_backbone",
    "default_weights",
    "diff_configs",
    "has_weights",
    "parse_backbone",
    "plug_backbone",
    "take_step",
]
