"""ConvNeXt as a backbone with one feature map per stage.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/models/convnext.py
and its object_detection/mmdet/models/backbones/convnext.py (arXiv 2201.03545). The released V1 weights are MIT.
Differs: stages above the highest requested output are not built, so every parameter gets a gradient; parameter paths
are unchanged.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from convnext_dense.checkpoints.variants import get_variant
from convnext_dense.errors import UserError
from convnext_dense.layers import ConvNeXtBlock, LayerNorm2d, PatchConv2d
from convnext_dense.models.backbone import InitCfg, StagedBackbone, check_arguments, drop_path_rates
from convnext_dense.models.layer_configs import STEM_PATCH_SIZE, check_stem, set_layers
from convnext_dense.registry import MODELS


@MODELS.register_module()
class ConvNeXt(StagedBackbone):
    """ConvNeXt V1 / V2 backbone for detectors and segmenters.

    Args:
        arch: A name of ``variants.VARIANTS`` or ``dict(depths=..., channels=...)`` with four entries each.
        in_channels: Channels of the input image.
        drop_path_rate: Stochastic depth rate of the last block; it grows linearly from 0 at the first block.
        layer_scale_init_value: Initial value of each block's layer scale; 0 leaves layer scale out, as in V2.
        use_grn: Whether blocks have V2's global response normalisation. V2 is ``use_grn=True`` together with
            ``layer_scale_init_value=0``, at any width.
        out_indices: Stages to return, in increasing order, from 0, 1, 2, 3; a single number for one stage, negative
            numbers to count from the end. The default is all four; in mmpretrain it is -1.
        output_norms: ``'all'`` puts a LayerNorm on every output (the paper's dense models). ``'last'`` puts one on the
            output of the last stage only, as DINOv3 does: the norms of its first three stages are identities, and its
            final norm, which is applied to every position and not only to their mean, is the one that is loaded here.
            ``'none'`` returns raw features.
        frozen_stages: Number of stages, counted from the stem, that neither learn nor drop paths; 0 freezes nothing.
            Their weights must have been loaded, in any way, when training starts. -1 means 0, as in mmpretrain.
        frozen_output_norms: Whether the output norms do not learn either; all weights of a frozen network that has its
            own norm, such as DINOv3's, are then as loaded.
        with_cp: Whether the backward pass recomputes activations to save memory: True recomputes whole blocks,
            ``'mlp'`` only their norm and hidden layer, which saves most of the memory in less time.
        contiguous_outputs: Whether to copy outputs from channels-last memory, in which the network works, to the
            default order. Heads that call ``view`` on features or gradients need it (CenterNet, DMNet).
        gap_before_final_norm: Whether each output is the normalised mean over its map: one vector per image, for the
            heads of mmpretrain's classifiers. mmpretrain's default is True; detectors and segmenters need False there
            too.
        stem_patch_size: As in mmpretrain; must be 4.
        norm_cfg: As in mmpretrain: ``dict(type='LN2d', eps=...)``, of which ``eps`` is used; None is the paper's 1e-6.
        act_cfg: As in mmpretrain: ``dict(type='GELU')``, optionally with ``approximate='tanh'``.
        linear_pw_conv: As in mmpretrain, where it chooses between two shapes of weights for the same function. It
            changes nothing here; checkpoints with either shape load.
        init_cfg: None, a config of mmengine's initialisers, or a list of them. ``dict(type='Pretrained',
            checkpoint=..., prefix=...)``, alone or in the list, goes through
            ``convnext_dense.checkpoints.load_weights``, which loads it completely or raises an error.

    Attributes:
        depths: Number of blocks per stage.
        channels: Number of channels per stage.
        strides: Downsampling per stage: 4, 8, 16, 32.

    Raises:
        UserError: An argument is not one of the values above.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        in_channels: int = 3,
        *,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_grn: bool = False,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        output_norms: str = "all",
        frozen_stages: int = 0,
        frozen_output_norms: bool = False,
        with_cp: bool | str = False,
        contiguous_outputs: bool = False,
        gap_before_final_norm: bool = False,
        stem_patch_size: int = STEM_PATCH_SIZE,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        linear_pw_conv: bool = True,
        init_cfg: InitCfg = None,
    ) -> None:
        depths, channels = get_variant(arch)
        levels = check_arguments(
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            output_norms=output_norms,
            frozen_stages=frozen_stages,
        )
        check_stem(stem_patch_size)
        if with_cp not in (False, True, "mlp"):
            raise UserError(f"with_cp={with_cp!r} must be False, True or 'mlp'.")
        if linear_pw_conv not in (False, True):
            raise UserError(f"linear_pw_conv={linear_pw_conv!r} must be False or True.")

        num_built = levels[-1] + 1
        widths = channels[:num_built]
        stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], kernel_size=4, stride=4), LayerNorm2d(widths[0]))
        downsamplings = [separate_downsampling(narrow, wide) for narrow, wide in pairwise(widths)]
        options = dict(layer_scale_init_value=layer_scale_init_value, use_grn=use_grn, rebuild_hidden=with_cp == "mlp")
        stages = [
            nn.Sequential(*(ConvNeXtBlock(width, drop_path_rate=rate, **options) for rate in rates))  # type: ignore[arg-type]
            # The rates are those of the whole network even if its last stages are not built.
            for width, rates in zip(widths, drop_path_rates(drop_path_rate, depths), strict=False)
        ]
        super().__init__(
            [stem, *downsamplings],
            stages,
            depths=depths,
            channels=channels,
            output_norms=output_norms,
            frozen_stages=frozen_stages,
            frozen_output_norms=frozen_output_norms,
            in_channels=in_channels,
            out_indices=levels,
            with_cp=bool(with_cp) and with_cp != "mlp",
            contiguous_outputs=contiguous_outputs,
            gap_before_final_norm=gap_before_final_norm,
            init_cfg=init_cfg,
        )
        set_layers(self, norm_cfg, act_cfg)


def separate_downsampling(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build the downsampling layer between two stages: LayerNorm and a 2x2 convolution with stride 2."""
    return nn.Sequential(LayerNorm2d(in_channels), PatchConv2d(in_channels, out_channels, patch_size=2))
