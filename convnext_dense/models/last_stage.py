"""ConvNeXt's last stage as a separate module, for detectors that run it on regions (C4).

Letters: N regions, C channels, H height, W width.
"""

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from convnext_dense.checkpoints.variants import get_variant
from convnext_dense.layers import ConvNeXtBlock, LayerNorm2d
from convnext_dense.models.backbone import drop_path_rates, reset_parameters
from convnext_dense.models.convnext import separate_downsampling
from convnext_dense.registry import MODELS


@MODELS.register_module()
class LastStage(BaseModule):
    """Downsamples regions of the stride-16 map and applies the last stage's blocks and an output norm.

    All arguments are as for ``ConvNeXt``, whose ``out_indices=(2,)`` feeds it.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        *,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_grn: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        depths, channels = get_variant(arch)
        self.downsample = separate_downsampling(channels[2], channels[3])
        self.blocks = nn.Sequential(
            *(
                ConvNeXtBlock(
                    channels[3],
                    drop_path_rate=rate,
                    layer_scale_init_value=layer_scale_init_value,
                    use_grn=use_grn,
                )
                for rate in drop_path_rates(drop_path_rate, depths)[3]
            )
        )
        self.norm = LayerNorm2d(channels[3])
        self.apply(reset_parameters)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map ``(N, channels[2], H, W)`` to ``(N, channels[3], H // 2, W // 2)``."""
        return self.norm(self.blocks(self.downsample(x_nchw)))
