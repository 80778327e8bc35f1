"""The road from ResNet to ConvNeXt: one network for every step of the paper's tables 10 and 11.

Letters: N images, C channels, H height, W width; w is the width of a stage, k a kernel size.

Source: arXiv 2201.03545v2, section 2 and appendix C. There is no official code for the steps in between. These
definitions reproduce the published MACs of every row, except two of table 10 that follow from no definition in the
paper (see docs/roadmap.md). The first step is torchvision's ResNet, the last one is ConvNeXt itself.
Differs: the paper leaves some details open; they are decided as follows.
- Stride: it is in the 3x3 convolution of a bottleneck, as in torchvision (the MACs rule out the first 1x1 convolution).
- Norms outside the residual branch: the patchify stem has a norm but no activation, and a strided shortcut has a norm.
  Both are of the step's own kind: BatchNorm up to ``fewer_norms``, LayerNorm from ``layer_norm`` on. "Fewer norms" and
  "fewer activations" remove layers from the residual branch; the latter also removes the activation after the addition.
- Biases: a convolution has one unless a BatchNorm follows it.
- Layer scale: appendix A.1 says that the steps are trained with table 5, which includes it, so every step except
  ``original`` has it.
- Weights are initialised as in table 5 and the official code at every step. ``original`` was trained by others.
- The paper does not cover features for dense heads: ``output_norms`` works as in ConvNeXt at every step.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from convnext_dense.errors import UserError
from convnext_dense.layers import ConvNeXtBlock, DropPath, LayerNorm2d
from convnext_dense.models.backbone import InitCfg, StagedBackbone, check_arguments, drop_path_rates
from convnext_dense.models.convnext import separate_downsampling
from convnext_dense.registry import MODELS


@dataclass(frozen=True)
class Decisions:
    """Design decisions of a network on the road; the defaults are those of a ResNet."""

    depths: tuple[int, ...]
    width: int
    layer_scale: bool = False
    patchify_stem: bool = False
    depthwise: bool = False
    inverted: bool = False
    depthwise_first: bool = False
    kernel_size: int = 3
    gelu: bool = False
    fewer_activations: bool = False
    fewer_norms: bool = False
    layer_norm: bool = False
    separate_downsampling: bool = False


REGIMES: dict[str, Decisions] = {
    "resnet50": Decisions(depths=(3, 4, 6, 3), width=64),
    "resnet200": Decisions(depths=(3, 24, 36, 3), width=64),
}
# Step -> what it changes in the previous step, in the paper's order; by regime where the two differ.
STEPS: dict[str, Mapping[str, Any]] = {
    "original": {},
    "enhanced_recipe": dict(layer_scale=True),
    "stage_ratio": {
        "resnet50": dict(depths=(3, 3, 9, 3)),
        "resnet200": dict(depths=(3, 3, 27, 3), width=84),
    },
    "patchify_stem": dict(patchify_stem=True),
    "depthwise": dict(depthwise=True),
    "width": {"resnet50": dict(width=96), "resnet200": dict(width=128)},
    "inverted_bottleneck": dict(inverted=True),
    "move_up_depthwise": dict(depthwise_first=True),
    "kernel_5": dict(kernel_size=5),
    "kernel_7": dict(kernel_size=7),
    "kernel_9": dict(kernel_size=9),
    "kernel_11": dict(kernel_size=11),
    "gelu": dict(gelu=True, kernel_size=7),  # 9 and 11 were tried and not kept
    "fewer_activations": dict(fewer_activations=True),
    "fewer_norms": dict(fewer_norms=True),
    "layer_norm": dict(layer_norm=True),
    "separate_downsampling": dict(separate_downsampling=True),
}


def get_decisions(step: str, regime: str) -> Decisions:
    """Return the decisions of all steps up to and including ``step``.

    Raises:
        UserError: There is no such step or regime.
    """
    if step not in STEPS:
        raise UserError(f"step='{step}' is not on the road; the steps are {', '.join(STEPS)}.")
    if regime not in REGIMES:
        raise UserError(f"regime='{regime}' must be one of {', '.join(REGIMES)}.")
    walked = list(STEPS)[: list(STEPS).index(step) + 1]
    changes = (STEPS[name].get(regime, STEPS[name]) for name in walked)
    *_, decisions = accumulate(changes, lambda so_far, change: replace(so_far, **change), initial=REGIMES[regime])
    return decisions


@MODELS.register_module()
class RoadmapNet(StagedBackbone):
    """One step between ResNet and ConvNeXt, as a backbone of four stages.

    A strided block rounds the size of its output up, as in ResNet; the last step's downsampling layers round it down.

    Args:
        step: A name of ``STEPS``: all of the paper's decisions up to and including this one are taken.
        regime: ``'resnet50'`` leads to ConvNeXt-T (table 10), ``'resnet200'`` to ConvNeXt-B (table 11).
        width_factor: Factor on every width of the paper, for trials on small machines; the result is rounded to a whole
            number.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth rate of the last block; it grows linearly from 0 at the first block. Table 5
            has 0.1 for ConvNeXt-T; none is published for the steps towards ConvNeXt-B.
        layer_scale_init_value: Initial value of the layer scale of every step except ``original``; 0 leaves it out.
        norm_eval: Whether BatchNorm keeps its running statistics in training, which detectors with few images per GPU
            need. Steps from ``layer_norm`` on have no BatchNorm.
        init_cfg: See ``ConvNeXt``, as for all other arguments. The last step takes any ConvNeXt checkpoint.

    Attributes:
        decisions: Design decisions of the network.
        depths: Number of blocks per stage.
        channels: Number of output channels per stage: four times the width until the bottleneck is inverted.
        strides: Downsampling per stage: 4, 8, 16, 32.
        ends_with_norm: Whether the paper's classifier has a LayerNorm between pooling and the linear layer: only at the
            last step.

    Raises:
        UserError: An argument is not one of the values above.
    """

    def __init__(
        self,
        step: str,
        regime: str = "resnet50",
        *,
        width_factor: float = 1.0,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        norm_eval: bool = False,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        output_norms: str = "all",
        frozen_stages: int = 0,
        with_cp: bool = False,
        init_cfg: InitCfg = None,
    ) -> None:
        levels = check_arguments(
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            output_norms=output_norms,
            frozen_stages=frozen_stages,
        )
        decisions = get_decisions(step, regime)
        width = round(decisions.width * width_factor)
        if width < 1:
            raise UserError(f"width_factor={width_factor} leaves no channels of the width {decisions.width}.")
        scale = layer_scale_init_value if decisions.layer_scale else 0.0
        widths = [width * 2**stage for stage in range(4)]
        channels = tuple(widths if decisions.inverted else [4 * each for each in widths])
        num_built = levels[-1] + 1

        stem = _build_stem(decisions, in_channels, width)
        betweens = [
            separate_downsampling(*pair) if decisions.separate_downsampling else nn.Sequential()
            for pair in pairwise(channels[:num_built])
        ]
        rates = drop_path_rates(drop_path_rate, decisions.depths)
        stages = []
        for stage in range(num_built):
            before = channels[stage - 1] if stage else width
            stages.append(_build_stage(decisions, before, widths[stage], rates[stage], stage, scale))
        super().__init__(
            [stem, *betweens],
            stages,
            depths=decisions.depths,
            channels=channels,
            output_norms=output_norms,
            frozen_stages=frozen_stages,
            in_channels=in_channels,
            out_indices=levels,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        self.decisions = decisions
        self.norm_eval = norm_eval
        self.ends_with_norm = decisions.separate_downsampling

    def train(self, mode: bool = True) -> "RoadmapNet":
        """Set the mode; with ``norm_eval`` BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


class RoadmapBlock(nn.Module):
    """The residual block of every step before the last: two 1x1 convolutions and one k x k, in the step's order.

    Args:
        in_channels: Channels of the input.
        width: w of the stage. The bottleneck maps to w, w and 4w channels; inverted, to 4w, 4w and w.
        stride: Stride of the k x k convolution and of the shortcut.
        decisions: Design decisions of the step.
        drop_path_rate: Probability of dropping the branch of an image in training.
        layer_scale_init_value: Initial value of the branch's layer scale; 0 leaves it out.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        decisions: Decisions,
        drop_path_rate: float,
        layer_scale_init_value: float,
    ) -> None:
        super().__init__()
        hidden, out_channels = (4 * width, width) if decisions.inverted else (width, 4 * width)
        spatial_channels = in_channels if decisions.depthwise_first else hidden
        spatial = dict(kernel_size=decisions.kernel_size, stride=stride, padding=decisions.kernel_size // 2)
        spatial["groups"] = spatial_channels if decisions.depthwise else 1
        layers: list[tuple[str, int, int, dict[str, Any]]] = [
            ("expand" if decisions.inverted else "reduce", in_channels, hidden, dict(kernel_size=1)),
            ("spatial", spatial_channels, spatial_channels, spatial),
            ("project", hidden, out_channels, dict(kernel_size=1)),
        ]
        if decisions.depthwise_first:
            layers[:2] = layers[1::-1]

        branch: OrderedDict[str, nn.Module] = OrderedDict()
        for name, before, after, options in layers:
            has_norm = not decisions.fewer_norms or name == "spatial"
            # The activation of the last layer comes after the addition.
            has_activation = name == "expand" if decisions.fewer_activations else name != "project"
            branch[name] = nn.Conv2d(before, after, bias=not has_norm or decisions.layer_norm, **options)
            if has_norm:
                branch[f"{name}_norm"] = _norm(decisions, after)
            if has_activation:
                branch[f"{name}_activation"] = _activation(decisions)
        self.branch = nn.Sequential(branch)
        # This includes the first stage of bottlenecks, whose input has w channels and whose output has 4w.
        changes_shape = stride > 1 or in_channels != out_channels
        self.shortcut: nn.Module = nn.Identity()
        if changes_shape:
            conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=decisions.layer_norm)
            self.shortcut = nn.Sequential(conv, _norm(decisions, out_channels))
        self.gamma = (
            nn.Parameter(torch.full((out_channels,), layer_scale_init_value)) if layer_scale_init_value else None
        )
        self.drop_path = DropPath(drop_path_rate)
        self.activation = nn.Identity() if decisions.fewer_activations else _activation(decisions)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to the block's output, whose size is divided by the stride and rounded up."""
        branch = self.branch(x_nchw)
        if self.gamma is not None:
            branch = self.gamma[:, None, None] * branch
        return self.activation(self.shortcut(x_nchw) + self.drop_path(branch))


def _build_stem(decisions: Decisions, in_channels: int, width: int) -> nn.Sequential:
    if decisions.patchify_stem:
        conv = nn.Conv2d(in_channels, width, kernel_size=4, stride=4, bias=decisions.layer_norm)
        return nn.Sequential(conv, _norm(decisions, width))
    return nn.Sequential(
        nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )


def _build_stage(
    decisions: Decisions, in_channels: int, width: int, rates: list[float], stage: int, layer_scale_init_value: float
) -> nn.Sequential:
    if decisions.separate_downsampling:
        return nn.Sequential(
            *(
                ConvNeXtBlock(width, drop_path_rate=rate, layer_scale_init_value=layer_scale_init_value)
                for rate in rates
            )
        )
    out_channels = width if decisions.inverted else 4 * width
    return nn.Sequential(
        *(
            RoadmapBlock(
                out_channels if block else in_channels,
                width,
                stride=2 if stage and not block else 1,
                decisions=decisions,
                drop_path_rate=rate,
                layer_scale_init_value=layer_scale_init_value,
            )
            for block, rate in enumerate(rates)
        )
    )


def _norm(decisions: Decisions, channels: int) -> nn.Module:
    return LayerNorm2d(channels) if decisions.layer_norm else nn.BatchNorm2d(channels)


def _activation(decisions: Decisions) -> nn.Module:
    return nn.GELU() if decisions.gelu else nn.ReLU(inplace=True)
