"""ConvNeXt as a backbone that emits one feature map per stage.

Letters: N images, C channels, H height, W width.

Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/models/convnext.py
and its object_detection/mmdet/models/backbones/convnext.py (arXiv 2201.03545). The released V1 weights are MIT.
Differs: stages above the highest requested output are not built, so that no parameter is left without a gradient;
parameter paths are unchanged.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convnext_dense.checkpoints import load_weights
from convnext_dense.layers import ConvNeXtBlock, LayerNorm2d
from convnext_dense.models.variants import get_variant
from convnext_dense.registry import MODELS

NUM_STAGES = 4
OUTPUT_NORMS = ("all", "last", "none")


@MODELS.register_module()
class ConvNeXt(BaseModule):
    """ConvNeXt V1 / V2 backbone for detectors and segmenters.

    Args:
        arch: A name of ``variants.VARIANTS`` or ``dict(depths=..., channels=...)`` with four entries each.
        in_channels: Channels of the input image.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first block.
        layer_scale_init_value: Start value of each block's layer scale; 0 leaves layer scale out, as V2 does.
        use_grn: Whether blocks hold V2's global response normalisation.
        out_indices: Stages whose output is returned, increasing, out of 0, 1, 2, 3.
        output_norms: ``'all'`` puts a LayerNorm on every output (the paper's dense models), ``'last'`` on the last
            stage's only, ``'none'`` returns raw features.
        frozen_stages: How many stages, counted from the stem, neither learn nor drop paths. 0 freezes nothing. They
            must have been loaded, by whatever way, when training starts.
        with_cp: Whether the backward pass recomputes activations to save memory: True recomputes whole blocks,
            ``'mlp'`` only their norm and hidden layer, which is most of the memory for less of the time.
        gap_before_final_norm: Here for configs written for mmpretrain; only False means anything for dense outputs.
        init_cfg: None, or ``dict(type='Pretrained', checkpoint=..., prefix=...)``, which goes through
            ``convnext_dense.checkpoints.load_weights``: whole or an error.

    Attributes:
        depths: Number of blocks per stage.
        channels: Number of channels per stage.
        strides: Downsampling per stage: 4, 8, 16, 32.

    Raises:
        ValueError: An argument is outside of what is listed above.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        in_channels: int = 3,
        *,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_grn: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norms: str = "all",
        frozen_stages: int = 0,
        with_cp: bool | str = False,
        gap_before_final_norm: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.depths, self.channels = get_variant(arch)
        self.in_channels, self.out_indices = in_channels, tuple(out_indices)
        self.frozen_stages, self.with_cp = frozen_stages, with_cp
        _check_arguments(
            drop_path_rate=drop_path_rate,
            out_indices=self.out_indices,
            output_norms=output_norms,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            gap_before_final_norm=gap_before_final_norm,
        )

        num_built = self.out_indices[-1] + 1
        widths = self.channels[:num_built]
        stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], kernel_size=4, stride=4), LayerNorm2d(widths[0]))
        downsamplings = [
            nn.Sequential(LayerNorm2d(narrow), nn.Conv2d(narrow, wide, kernel_size=2, stride=2))
            for narrow, wide in pairwise(widths)
        ]
        self.downsample_layers = nn.ModuleList([stem, *downsamplings])

        # linspace(0, drop_path_rate, number of blocks), over the whole network even if its top is not built
        last_block = max(sum(self.depths) - 1, 1)
        self.stages = nn.ModuleList()
        for stage, width in enumerate(widths):
            first_block = sum(self.depths[:stage])
            blocks = [
                ConvNeXtBlock(
                    width,
                    drop_path_rate=drop_path_rate * (first_block + block) / last_block,
                    layer_scale_init_value=layer_scale_init_value,
                    use_grn=use_grn,
                    rebuild_hidden=with_cp == "mlp",
                )
                for block in range(self.depths[stage])
            ]
            self.stages.append(nn.Sequential(*blocks))

        for stage in self.out_indices:
            if output_norms == "all" or (output_norms == "last" and stage == NUM_STAGES - 1):
                self.add_module(f"norm{stage}", LayerNorm2d(self.channels[stage]))

        self.apply(_reset_parameters)
        self._frozen_at_random = self._freeze_stages()

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, ...]:
        """Maps images to feature maps.

        Args:
            x_nchw: ``(N, in_channels, H, W)`` with H and W at least 32 when stage 3 is asked for.

        Returns:
            One ``(N, channels[i], H // strides[i], W // strides[i])`` per entry of ``out_indices``.

        Raises:
            ValueError: The image has another shape, or this is training and frozen weights were never loaded.
        """
        if x_nchw.dim() != 4 or x_nchw.shape[1] != self.in_channels:
            raise ValueError(
                f"ConvNeXt expects images of shape (N, {self.in_channels}, H, W), got {tuple(x_nchw.shape)}."
            )
        if self.training and self._frozen_at_random and torch.is_grad_enabled():
            raise ValueError(
                f"frozen_stages={self.frozen_stages} would keep {len(self._frozen_at_random)} tensors at their random "
                f"start, such as {min(self._frozen_at_random)}: load weights (init_cfg, load_from or load_weights) or "
                "set frozen_stages=0."
            )
        outputs = []
        for stage, (downsample, blocks) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x_nchw = downsample(x_nchw)
            for block in blocks.children():
                if self.with_cp and self.with_cp != "mlp" and x_nchw.requires_grad:
                    x_nchw = checkpoint(block, x_nchw, use_reentrant=False)
                else:
                    x_nchw = block(x_nchw)
            if stage in self.out_indices:
                norm = getattr(self, f"norm{stage}", None)
                outputs.append(x_nchw if norm is None else norm(x_nchw))
        return tuple(outputs)

    def init_weights(self) -> None:
        """Loads the checkpoint of ``init_cfg``, whole or not at all; the constructor has already initialised the rest.

        Raises:
            ValueError: The checkpoint does not hold every tensor of this backbone, or cannot be read.
        """
        init_cfg = self.init_cfg
        if isinstance(init_cfg, dict) and init_cfg["type"] == "Pretrained":
            if not self.is_init:
                load_weights(self, init_cfg["checkpoint"], prefix=init_cfg.get("prefix"))
                self._is_init = True
        else:
            super().init_weights()

    def train(self, mode: bool = True) -> "ConvNeXt":
        """Sets the mode; frozen stages stay in evaluation mode, that is without dropping paths."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        """Notes which frozen weights are loaded. torch and mmengine call it whatever the way that weights come by."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._frozen_at_random -= {
            name
            for name in self._frozen_at_random
            if prefix + name in state_dict and state_dict[prefix + name].shape == self.get_parameter(name).shape
        }

    def _freeze_stages(self) -> set[str]:
        """Freezes what is to be frozen and names it."""
        frozen = zip(self.downsample_layers[: self.frozen_stages], self.stages[: self.frozen_stages], strict=True)
        for modules in frozen:
            for module in modules:
                module.eval().requires_grad_(False)
        return {name for name, param in self.named_parameters() if not param.requires_grad}

    def get_layer_depth(self, name: str, prefix: str = "") -> tuple[int, int]:
        """Layer id of a parameter under the paper's layer-wise learning-rate decay.

        Stem 0, stage 0 is 1, stage 1 is 2, stage 2 counts up from 3 every three blocks, stage 3 is the last.
        A downsampling layer has the id of the stage that it feeds, except the one into stage 2, which keeps 3 whatever
        the depth. Output norms and everything outside of the backbone follow after the last.

        Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/
        object_detection/mmcv_custom/layer_decay_optimizer_constructor.py
        Differs: the highest id follows from the depth of stage 2 (6 for nine blocks, 12 for 27) instead of being typed
        into each config.

        Args:
            name: Parameter name as ``named_parameters`` of the whole model gives it.
            prefix: What stands before this backbone's own names, with the dot.

        Returns:
            The layer id, and the number of ids; a parameter's multiplier is ``decay ** (number - id - 1)``.
        """
        last_id = 3 + -(-self.depths[2] // 3)
        num_layers = last_id + 2
        kind, stage, block = _locate(name, prefix)
        if kind is None:
            return num_layers - 1, num_layers
        if stage < 2:
            return (stage + 1 if kind == "stages" or stage else 0), num_layers
        if stage == 2:
            return (3 + block // 3 if kind == "stages" else 3), num_layers
        return last_id, num_layers

    def get_stage_depth(self, name: str, prefix: str = "") -> tuple[int, int]:
        """Layer id of a parameter under the official stage-wise decay; arguments and result as ``get_layer_depth``.

        Two quirks of the official code are kept because the published numbers were made with them: the number of ids
        is that of the layer-wise rule although only stages are told apart, and every downsampling layer, the deepest
        too, counts as layer 0.
        """
        _, num_layers = self.get_layer_depth(name, prefix)
        kind, stage, _ = _locate(name, prefix)
        if kind is None:
            return num_layers - 1, num_layers
        return (stage + 1 if kind == "stages" else 0), num_layers


def _locate(name: str, prefix: str) -> tuple[str | None, int, int]:
    """Splits a parameter name into 'downsample_layers' or 'stages' (None elsewhere), stage and index in it."""
    parts = name.removeprefix(prefix).split(".") if name.startswith(prefix) else []
    if parts and parts[0] in ("downsample_layers", "stages"):
        return parts[0], int(parts[1]), int(parts[2])
    return None, 0, 0


def _check_arguments(
    *,
    drop_path_rate: float,
    out_indices: tuple[int, ...],
    output_norms: str,
    frozen_stages: int,
    with_cp: bool | str,
    gap_before_final_norm: bool,
) -> None:
    if not 0.0 <= drop_path_rate < 1.0:
        raise ValueError(f"drop_path_rate={drop_path_rate} is not in [0, 1).")
    if not out_indices or any(index not in range(NUM_STAGES) for index in out_indices):
        raise ValueError(f"out_indices={out_indices} must name stages out of 0, 1, 2, 3.")
    if list(out_indices) != sorted(set(out_indices)):
        raise ValueError(f"out_indices={out_indices} must be increasing, each stage once.")
    if output_norms not in OUTPUT_NORMS:
        raise ValueError(f"output_norms='{output_norms}' must be one of {', '.join(OUTPUT_NORMS)}.")
    if frozen_stages not in range(NUM_STAGES + 1):
        raise ValueError(f"frozen_stages={frozen_stages} must be in 0..{NUM_STAGES}.")
    if with_cp not in (False, True, "mlp"):
        raise ValueError(f"with_cp={with_cp!r} must be False, True or 'mlp'.")
    if gap_before_final_norm:
        raise ValueError(
            "gap_before_final_norm=True pools the features to one vector per image, which a detector or segmenter "
            "cannot use; leave it out or set it to False."
        )


def _reset_parameters(module: nn.Module) -> None:
    # std .02 is the code's value; the paper's table 5 prints .2.
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
