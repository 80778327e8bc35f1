"""The linear segmentation head with which frozen features are compared.

Source: https://github.com/facebookresearch/dinov3/blob/6876159a/dinov3/eval/segmentation/models/heads/linear_head.py

This module imports mmseg, so configs name it in ``custom_imports``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from convnext_dense.registry import MODELS


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """A batch norm and a 1x1 convolution of one map; dropout, of whole channels, comes before both.

    Args:
        in_channels: Channels of the map.
        norm_cfg: As elsewhere in mmseg; SyncBN takes its statistics from all processes.
        **kwargs: Arguments of mmseg's ``BaseDecodeHead``, whose ``channels`` is ``in_channels`` here.
    """

    def __init__(self, in_channels: int, *, norm_cfg: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(in_channels, in_channels, norm_cfg=norm_cfg, **kwargs)
        self.norm = build_norm_layer(dict(norm_cfg), in_channels)[1]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits, ``(N, num_classes, H, W)``, of maps of which the head reads one."""
        x_nchw = self._transform_inputs(inputs)
        if self.dropout is not None:
            x_nchw = self.dropout(x_nchw)
        return self.conv_seg(self.norm(x_nchw))
