"""The isotropic ConvNeXt: every block at stride 16, like a plain Vision Transformer.

Letters: N images, C channels, H height, W width.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/models/convnext_isotropic.py
(arXiv 2201.03545, section 3.3; the weights are MIT). The four levels are those of the simple feature pyramid of
plain-ViT detectors, before its lateral convolutions: arXiv 2203.16527, section 3 and appendix A.
Differs: only the classifier is published. Dense use, output norms and layer ids are this package's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from convnext_dense.checkpoints.variants import get_isotropic_variant
from convnext_dense.layers import ConvNeXtBlock, LayerNorm2d
from convnext_dense.models.backbone import Backbone, InitCfg, check_arguments, drop_path_rates, reset_parameters
from convnext_dense.registry import MODELS

PATCH_SIZE = 16
_BLOCKS_PER_LAYER_ID = 3  # as in ConvNeXt's own rule for stage 2


@MODELS.register_module()
class IsotropicConvNeXt(Backbone):
    """Isotropic ConvNeXt V1 as a backbone of four levels, or, with ``out_indices=(2,)``, as a classifier's.

    A 16x16 convolution with stride 16 and without a norm is followed by blocks of one width. Level 2 is their output;
    levels 0 and 1 are computed from it by transposed convolutions, level 3 by pooling. Only requested levels are built,
    so ``out_indices=(2,)`` with ``output_norms='none'`` has the parameters of the published classifier below its final
    norm.

    Args:
        arch: ``'small'``, ``'base'``, ``'large'`` or ``dict(depth=..., channels=...)``.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth rate of the last block; it grows linearly from 0 at the first block.
        layer_scale_init_value: Initial value of each block's layer scale; 0 leaves it out. Published: 0 for small and
            base, 1e-6 for large.
        out_indices: Levels to return, in increasing order, from 0, 1, 2, 3; see ``ConvNeXt``.
        output_norms: ``'all'`` puts a LayerNorm on every output, ``'last'`` on level 3 only, ``'none'`` on none.
        with_cp: Whether to recompute blocks in the backward pass to save memory.
        init_cfg: See ``ConvNeXt``. The levels' own layers stay newly initialised when a classifier is loaded.

    Attributes:
        depth: Number of blocks.
        channels: Channels per level: C / 4, C / 2, C, C.
        strides: Downsampling per level: 4, 8, 16, 32.

    Raises:
        UserError: An argument is not one of the values above.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        in_channels: int = 3,
        *,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        output_norms: str = "all",
        with_cp: bool = False,
        init_cfg: InitCfg = None,
    ) -> None:
        levels = check_arguments(drop_path_rate=drop_path_rate, out_indices=out_indices, output_norms=output_norms)
        super().__init__(in_channels, levels, with_cp=with_cp, init_cfg=init_cfg)
        self.depth, width = get_isotropic_variant(arch)
        self.channels = (width // 4, width // 2, width, width)
        self.stem = nn.Conv2d(in_channels, width, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        [rates] = drop_path_rates(drop_path_rate, [self.depth])
        self.blocks = nn.Sequential(
            *(
                ConvNeXtBlock(width, drop_path_rate=rate, layer_scale_init_value=layer_scale_init_value)
                for rate in rates
            )
        )
        self.levels = nn.ModuleDict({str(level): _build_level(level, width) for level in self.out_indices})
        self._add_output_norms(output_norms)
        self.apply(reset_parameters)

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, ...]:
        """Map images to feature maps.

        Args:
            x_nchw: ``(N, in_channels, H, W)`` with H and W of at least 16, or 32 if level 3 is requested.

        Returns:
            One ``(N, channels[i], h, w)`` per entry of ``out_indices``, where h and w are ``H // 16`` and ``W // 16``
            times 4, 2, 1, or halved and rounded down.

        Raises:
            UserError: The images have another shape.
        """
        self._check_images(x_nchw)
        x_nchw = self._run_blocks(self.blocks, self.stem(x_nchw))
        return tuple(self._output(self.levels[str(level)](x_nchw), level) for level in self.out_indices)

    def get_layer_depth(self, name: str, prefix: str = "") -> tuple[int, int]:
        """Return the layer id of a parameter: stem 0, one id for every three blocks; levels and norms as the head.

        Arguments and result are those of ``ConvNeXt.get_layer_depth``. No rule is published for isotropic networks.
        """
        last_id = -(-self.depth // _BLOCKS_PER_LAYER_ID)
        num_layers = last_id + 2
        parts = name.removeprefix(prefix).split(".") if name.startswith(prefix) else [""]
        if parts[0] == "stem":
            return 0, num_layers
        if parts[0] == "blocks":
            return 1 + int(parts[1]) // _BLOCKS_PER_LAYER_ID, num_layers
        return num_layers - 1, num_layers


def _build_level(level: int, width: int) -> nn.Module:
    """Build the layers that bring the map of stride 16 to the stride of a level."""
    if level == 0:
        return nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2),
            LayerNorm2d(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, kernel_size=2, stride=2),
        )
    if level == 1:
        return nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)
    return nn.Identity() if level == 2 else nn.MaxPool2d(kernel_size=2, stride=2)
