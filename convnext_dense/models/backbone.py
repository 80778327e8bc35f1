"""Base classes of the backbones: argument checks, recomputation, weights, output norms, stages and layer ids.

Letters: N images, C channels, H height, W width.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convnext_dense.errors import UserError
from convnext_dense.layers import LayerNorm2d
from convnext_dense.layers.block import Convolve
from convnext_dense.models.initialising import initialise

NUM_STAGES = 4
OUTPUT_NORMS = ("all", "last", "none")

InitCfg = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class Backbone(BaseModule):
    """A network that maps images to one feature map per entry of ``out_indices``.

    Args:
        in_channels: Channels of the image.
        out_indices: Levels to return, as ``check_arguments`` returns them.
        with_cp: Whether to recompute blocks in the backward pass to save memory.
        contiguous_outputs: See ``ConvNeXt``.
        gap_before_final_norm: See ``ConvNeXt``.
        init_cfg: None, a config of mmengine's initialisers, or a list of them. ``dict(type='Pretrained',
            checkpoint=..., prefix=...)`` loads completely or raises an error.

    Attributes:
        channels: Number of channels of each of the four levels.
        strides: Downsampling of each of the four levels: 4, 8, 16, 32.
        out_indices: Which of the four levels are returned.
        ends_with_norm: Whether the paper's classifier on this network normalises the pooled features.
    """

    strides = (4, 8, 16, 32)
    channels: tuple[int, ...]
    ends_with_norm = True

    def __init__(
        self,
        in_channels: int,
        out_indices: Sequence[int],
        *,
        with_cp: bool,
        init_cfg: InitCfg,
        contiguous_outputs: bool = False,
        gap_before_final_norm: bool = False,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        self.contiguous_outputs = contiguous_outputs
        self.gap_before_final_norm = gap_before_final_norm

    def init_weights(self) -> None:
        """Apply ``init_cfg``; the constructor has already initialised everything else.

        Raises:
            UserError: The checkpoint does not hold every tensor of this backbone, or cannot be read.
        """
        initialise(self)

    def _add_output_norms(self, output_norms: str) -> None:
        for level in self.out_indices:
            if output_norms == "all" or (output_norms == "last" and level == NUM_STAGES - 1):
                self.add_module(f"norm{level}", LayerNorm2d(self.channels[level]))

    def _output(self, x_nchw: Tensor, level: int) -> Tensor:
        norm = getattr(self, f"norm{level}", None)
        if self.gap_before_final_norm:
            x_nchw = x_nchw.mean(dim=(2, 3), keepdim=True)
        x_nchw = x_nchw if norm is None else norm(x_nchw)
        if self.gap_before_final_norm:
            return x_nchw.flatten(1)
        return x_nchw.contiguous() if self.contiguous_outputs else x_nchw

    def _run_blocks(self, blocks: nn.Module, x_nchw: Tensor, *args: Any) -> Tensor:
        for block in blocks.children():
            if self.with_cp and x_nchw.requires_grad:
                x_nchw = checkpoint(block, x_nchw, *args, use_reentrant=False)
            else:
                x_nchw = block(x_nchw, *args)
        return x_nchw

    def _check_images(self, x_nchw: Tensor) -> None:
        if x_nchw.dim() != 4 or x_nchw.shape[1] != self.in_channels:
            raise UserError(
                f"{type(self).__name__} expects images of shape (N, {self.in_channels}, H, W), got "
                f"{tuple(x_nchw.shape)}."
            )


class StagedBackbone(Backbone):
    """A backbone of four stages at strides 4, 8, 16 and 32, under the official repository's parameter paths.

    Args:
        downsample_layers: One module per stage, which runs before it; the first one is the stem.
        stages: One sequence of blocks per stage. Both lists end with the highest requested stage.
        depths: Number of blocks of all four stages.
        channels: Number of output channels of all four stages.
        output_norms: See ``ConvNeXt``.
        frozen_stages: See ``ConvNeXt``.
        frozen_output_norms: See ``ConvNeXt``.
        **kwargs: See ``Backbone``.
    """

    def __init__(
        self,
        downsample_layers: Iterable[nn.Module],
        stages: Iterable[nn.Sequential],
        *,
        depths: tuple[int, ...],
        channels: tuple[int, ...],
        output_norms: str,
        frozen_stages: int,
        frozen_output_norms: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.depths, self.channels, self.frozen_stages = depths, channels, max(frozen_stages, 0)
        self.frozen_output_norms = frozen_output_norms
        self.downsample_layers = nn.ModuleList(downsample_layers)
        self.stages = nn.ModuleList(stages)
        self._add_output_norms(output_norms)
        self.apply(reset_parameters)
        self._frozen_at_random = self._freeze_stages()

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, ...]:
        """Map images to feature maps.

        Args:
            x_nchw: ``(N, in_channels, H, W)`` with H and W of at least 32 if stage 3 is requested.

        Returns:
            One ``(N, channels[i], H // strides[i], W // strides[i])`` per entry of ``out_indices``, or one
            ``(N, channels[i])`` with ``gap_before_final_norm``.

        Raises:
            UserError: The images have another shape, or frozen weights were never loaded before training.
        """
        self._check_images(x_nchw)
        self._check_frozen()
        outputs = []
        for stage, (downsample, blocks) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x_nchw = self._run_blocks(blocks, downsample(x_nchw))
            if stage in self.out_indices:
                outputs.append(self._output(x_nchw, stage))
        return tuple(outputs)

    def run_patches(self, x_nchw: Tensor, convolve: Convolve) -> Tensor:
        """Map a strip of patches to the last stage's map of it, which has its norm if there is one.

        Args:
            x_nchw: ``(N, in_channels, V * 32, 32)``: V patches of 32 pixels below each other.
            convolve: See ``ConvNeXtBlock``.

        Returns:
            ``(N, channels[-1], V, 1)``.
        """
        self._check_frozen()
        for downsample, blocks in zip(self.downsample_layers, self.stages, strict=True):
            x_nchw = self._run_blocks(blocks, downsample(x_nchw), convolve)
        return self._output(x_nchw, NUM_STAGES - 1)

    def _check_frozen(self) -> None:
        if self.training and self._frozen_at_random and torch.is_grad_enabled():
            norms = " and frozen_output_norms=True" if self.frozen_output_norms else ""
            raise UserError(
                f"frozen_stages={self.frozen_stages}{norms} would keep {len(self._frozen_at_random)} tensors at their "
                f"random initial values, such as {min(self._frozen_at_random)}: load weights (init_cfg, load_from or "
                "load_weights; --backbone-weights or --init-from of tools/train.py) or freeze less."
            )

    def train(self, mode: bool = True) -> "StagedBackbone":
        """Set the mode; frozen stages stay in evaluation mode, which drops no paths."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        """Note which frozen weights are loaded; torch and mmengine call this method for every way of loading."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._frozen_at_random -= {
            name
            for name in self._frozen_at_random
            if prefix + name in state_dict and _fits(state_dict[prefix + name], self.get_parameter(name))
        }

    def _freeze_stages(self) -> set[str]:
        """Freeze the first ``frozen_stages`` stages and perhaps the output norms, and return all frozen parameters."""
        frozen = zip(self.downsample_layers[: self.frozen_stages], self.stages[: self.frozen_stages], strict=True)
        for modules in frozen:
            for module in modules:
                module.eval().requires_grad_(False)
        if self.frozen_output_norms:
            for level in self.out_indices:
                norm = getattr(self, f"norm{level}", None)
                if norm is not None:
                    norm.requires_grad_(False)
        return {name for name, param in self.named_parameters() if not param.requires_grad}

    def get_layer_depth(self, name: str, prefix: str = "") -> tuple[int, int]:
        """Return the layer id of a parameter for the paper's layer-wise learning-rate decay.

        The stem is 0, stage 0 is 1, stage 1 is 2, stage 2 counts up from 3 every three blocks, and stage 3 is the last.
        A downsampling layer has the id of the stage that it feeds; the one into stage 2 has 3 at any depth. Output
        norms and everything outside the backbone come after the last id.

        Source: https://github.com/facebookresearch/ConvNeXt/blob/048efcea897d999aed302f2639b6270aedf8d4c8/
        object_detection/mmcv_custom/layer_decay_optimizer_constructor.py
        Differs: the highest id follows from the depth of stage 2 (6 for nine blocks, 12 for 27) instead of being set
        in each config.

        Args:
            name: Name of the parameter in ``named_parameters`` of the whole model.
            prefix: Prefix of this backbone's parameters in these names, including the dot.

        Returns:
            The layer id and the number of ids; a parameter's multiplier is ``decay ** (number - id - 1)``.
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
        """Return the layer id of a parameter for the official stage-wise decay, as ``get_layer_depth`` does.

        Two quirks of the official code are kept because the published results depend on them: the number of ids is that
        of the layer-wise rule although only stages are distinguished, and every downsampling layer, even the deepest,
        counts as layer 0.
        """
        _, num_layers = self.get_layer_depth(name, prefix)
        kind, stage, _ = _locate(name, prefix)
        if kind is None:
            return num_layers - 1, num_layers
        return (stage + 1 if kind == "stages" else 0), num_layers

    def get_block_depth(self, name: str, prefix: str = "") -> tuple[int, int]:
        """Return the layer id of a parameter where every block has its own, as ``get_layer_depth`` does.

        A downsampling layer, the stem too, has the id of the block after it; the ids begin with 1.

        Source: https://github.com/facebookresearch/ConvNeXt-V2/blob/2553895753323c6fe0b2bf390683f5ea358a42b9/
        optim_factory.py (``layer_decay_type='single'``)
        """
        num_layers = sum(self.depths) + 2
        kind, stage, block = _locate(name, prefix)
        if kind is None:
            return num_layers - 1, num_layers
        return sum(self.depths[:stage]) + (block if kind == "stages" else 0) + 1, num_layers


def _fits(tensor: Tensor, param: Tensor) -> bool:
    """Return whether a tensor fits a parameter; those of GRN may have leading dimensions of size one."""
    return tensor.shape[max(tensor.dim() - param.dim(), 0) :] == param.shape and tensor.numel() == param.numel()


def _locate(name: str, prefix: str) -> tuple[str | None, int, int]:
    """Split a parameter name into 'downsample_layers' or 'stages' (else None), the stage, and the index in it."""
    parts = name.removeprefix(prefix).split(".") if name.startswith(prefix) else []
    if parts and parts[0] in ("downsample_layers", "stages"):
        return parts[0], int(parts[1]), int(parts[2])
    return None, 0, 0


def check_arguments(
    *, drop_path_rate: float, out_indices: int | Sequence[int], output_norms: str, frozen_stages: int = 0
) -> tuple[int, ...]:
    """Check the arguments that all backbones share.

    Args:
        drop_path_rate: In [0, 1).
        out_indices: One level or several; negative numbers count from the last of the four.
        output_norms: One of ``OUTPUT_NORMS``.
        frozen_stages: From 0 to 4; -1, which means none in most backbones of OpenMMLab, is the same as 0.

    Returns:
        ``out_indices`` counted from the first level.

    Raises:
        UserError: An argument is out of range.
    """
    if not 0.0 <= drop_path_rate < 1.0:
        raise UserError(f"drop_path_rate={drop_path_rate} is not in [0, 1).")
    if output_norms not in OUTPUT_NORMS:
        raise UserError(f"output_norms='{output_norms}' must be one of {', '.join(OUTPUT_NORMS)}.")
    if frozen_stages not in range(-1, NUM_STAGES + 1):
        raise UserError(f"frozen_stages={frozen_stages} must be in 0..{NUM_STAGES}.")
    return _count_from_first(out_indices)


def _count_from_first(out_indices: int | Sequence[int]) -> tuple[int, ...]:
    several = isinstance(out_indices, Iterable) and not isinstance(out_indices, str)
    given: tuple[Any, ...] = tuple(out_indices) if several else (out_indices,)  # type: ignore[arg-type]
    if not given or any(index not in range(-NUM_STAGES, NUM_STAGES) or isinstance(index, bool) for index in given):
        raise UserError(f"out_indices={out_indices!r} must name stages out of 0, 1, 2, 3, or -4 to -1 from the end.")
    levels = tuple(int(index) % NUM_STAGES for index in given)
    if list(levels) != sorted(set(levels)):
        raise UserError(f"out_indices={out_indices!r} must be increasing, each stage once.")
    return levels


def drop_path_rates(drop_path_rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Return the rate of each block of each stage, which grows linearly from 0 at the first block of the network."""
    last_block = max(sum(depths) - 1, 1)
    firsts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [drop_path_rate * (first + block) / last_block for block in range(depth)]
        for first, depth in zip(firsts, depths, strict=True)
    ]


def reset_parameters(module: nn.Module) -> None:
    """Initialise the weights of one layer as the official code does."""
    # std .02 is the code's value; the paper's table 5 says .2.
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
