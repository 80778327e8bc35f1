"""Widely used ConvNeXt backbones with the weights of one of ours, each returning four raw feature maps.

timm, torchvision and transformers are used as installed. mmpretrain is not required; its order of operations, which is
that of the official repository, is implemented here with torch's own layers. Three variants are our own: with rebuilt
hidden layers, with contiguous outputs and, on a GPU, without our kernels.
"""

import copy
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convnext_dense.checkpoints import convert_state_dict
from convnext_dense.kernels.choice import forced
from convnext_dense.layers import ConvNeXtBlock, LayerNorm2d, PatchConv2d
from convnext_dense.models import ConvNeXt

OURS, OFFICIAL_ORDER = "convnext_dense", "official order"
REBUILT, CONTIGUOUS = "with_cp='mlp'", "contiguous_outputs=True"
ON_TORCH = "convnext_dense on torch's kernels"  # OURS uses the default choice of kernels


def build_backbones(arch: str, wanted: list[str] | None = None) -> dict[str, nn.Module]:
    """Build ours with random weights under which every part has an effect, and the peers with the same weights.

    Args:
        arch: 'tiny', 'small', 'base', 'large' or 'xlarge'.
        wanted: Names of ``PEERS`` to include; by default all that are installed.
    """
    torch.manual_seed(0)
    ours = ConvNeXt(arch, output_norms="none", layer_scale_init_value=0.1)
    for param in ours.parameters():
        if param.dim() == 1:
            param.data.add_(torch.randn_like(param), alpha=0.02)
    models: dict[str, nn.Module] = {OURS: ours}
    for name, build in PEERS.items():
        if (wanted is None or name in wanted) and _is_there(name):
            models[name] = build(arch, ours)
    return models


def _is_there(name: str) -> bool:
    if name == ON_TORCH:
        return torch.cuda.is_available()
    return name in (OFFICIAL_ORDER, REBUILT, CONTIGUOUS) or importlib.util.find_spec(name) is not None


class OnTorch(nn.Module):
    """A model whose operators run on torch's kernels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_nchw: Tensor) -> Any:
        """Run the model on torch's kernels."""
        with forced("torch"):
            return self.model(x_nchw)


def in_official_order(model: nn.Module) -> nn.Module:
    """Replace the operations of all blocks and norms in a model with the official ones in their order; keep weights.

    Source: https://github.com/open-mmlab/mmpretrain/blob/v1.2.0/mmpretrain/models/backbones/convnext.py
    """
    for module in list(model.modules()):
        if isinstance(module, ConvNeXtBlock):
            dwconv = module.dwconv
            stock = nn.Conv2d(dwconv.in_channels, dwconv.in_channels, 7, padding=3, groups=dwconv.in_channels)
            stock.to(dwconv.weight.device, dwconv.weight.dtype)
            stock.load_state_dict(dwconv.state_dict())
            module.dwconv = stock
            module.norm.__class__ = nn.LayerNorm
            module.pwconv1.__class__ = module.pwconv2.__class__ = nn.Linear
            module.__class__ = _OfficialBlock
        elif isinstance(module, LayerNorm2d):
            module.__class__ = _OfficialNorm
        elif isinstance(module, PatchConv2d):
            module.__class__ = nn.Conv2d
    return model


class _OfficialBlock(ConvNeXtBlock):
    def forward(self, x_nchw: Tensor) -> Tensor:
        x = self.dwconv(x_nchw).permute(0, 2, 3, 1)
        x = self.pwconv2(self.grn(self.act(self.pwconv1(self.norm(x)))))
        if self.gamma is not None:
            x = x.mul(self.gamma.view(1, 1, 1, -1))
        return x_nchw + self.drop_path(x.permute(0, 3, 1, 2))


class _OfficialNorm(LayerNorm2d):
    def forward(self, x_nchw: Tensor) -> Tensor:
        x_nhwc = x_nchw.permute(0, 2, 3, 1)
        x_nhwc = nn.functional.layer_norm(x_nhwc, self.normalized_shape, self.weight, self.bias, self.eps)
        return x_nhwc.permute(0, 3, 1, 2).contiguous()


class _Maps(nn.Module):
    """Returns four maps from a model that has them in another form."""

    def __init__(self, model: nn.Module, maps: Callable[[nn.Module, Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.model, self.maps = model, maps

    def forward(self, x_nchw: Tensor) -> list[Tensor]:
        return self.maps(self.model, x_nchw)


def _official_order(arch: str, ours: ConvNeXt) -> nn.Module:
    return in_official_order(_as_ours(arch, ours))


def _rebuilt(arch: str, ours: ConvNeXt) -> nn.Module:
    return _as_ours(arch, ours, with_cp="mlp")


def _contiguous(arch: str, ours: ConvNeXt) -> nn.Module:
    return _as_ours(arch, ours, contiguous_outputs=True)


def _as_ours(arch: str, ours: ConvNeXt, **kwargs: Any) -> ConvNeXt:
    model = ConvNeXt(arch, output_norms="none", layer_scale_init_value=0.1, **kwargs)
    model.load_state_dict(ours.state_dict())
    return model


def _on_torch(arch: str, ours: ConvNeXt) -> nn.Module:
    return OnTorch(copy.deepcopy(ours))


def _timm(arch: str, ours: ConvNeXt) -> nn.Module:
    import timm

    model = timm.create_model(f"convnext_{arch}", features_only=True, pretrained=False)
    weights = convert_state_dict(ours.state_dict(), "timm")
    # features_only joins the names of the two containers with an underscore
    model.load_state_dict(
        {name.replace("stem.", "stem_").replace("stages.", "stages_"): weights[name] for name in weights}
    )
    return model


def _torchvision(arch: str, ours: ConvNeXt) -> nn.Module:
    import torchvision

    model = getattr(torchvision.models, f"convnext_{arch}")().features
    weights = convert_state_dict(ours.state_dict(), "torchvision")
    model.load_state_dict({name.removeprefix("features."): weights[name] for name in weights})
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0  # torchvision drops paths by default
    return _Maps(model, _every_second)


def _every_second(model: nn.Module, x_nchw: Tensor) -> list[Tensor]:
    maps = []
    for index, layer in enumerate(model):
        x_nchw = layer(x_nchw)
        if index % 2:
            maps.append(x_nchw)
    return maps


def _transformers(arch: str, ours: ConvNeXt) -> nn.Module:
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(depths=list(ours.depths), hidden_sizes=list(ours.channels), layer_scale_init_value=0.1)
    model = ConvNextModel(config)
    weights = convert_state_dict(ours.state_dict(), "huggingface")
    missing, _ = model.load_state_dict(
        {name.removeprefix("convnext."): weights[name] for name in weights}, strict=False
    )
    assert all(name.startswith("layernorm.") for name in missing), missing  # of the pooled features
    return _Maps(model, _hidden_states)


def _hidden_states(model: nn.Module, x_nchw: Tensor) -> list[Tensor]:
    return list(model(x_nchw, output_hidden_states=True).hidden_states[1:])


PEERS: dict[str, Callable[[str, ConvNeXt], nn.Module]] = {
    OFFICIAL_ORDER: _official_order,
    REBUILT: _rebuilt,
    CONTIGUOUS: _contiguous,
    ON_TORCH: _on_torch,
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
}
