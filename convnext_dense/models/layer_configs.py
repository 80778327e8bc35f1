"""Arguments of mmpretrain's ConvNeXt that configure its layers.

Source: https://github.com/open-mmlab/mmpretrain/blob/v1.2.0/mmpretrain/models/backbones/convnext.py and
models/utils/norm.py (``build_norm_layer``).
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from convnext_dense.errors import UserError
from convnext_dense.layers import LayerNorm, LayerNorm2d

STEM_PATCH_SIZE = 4  # pixels; arXiv 2201.03545, section 2.2
_MMPRETRAIN_EPS = 1e-5  # the default of build_norm_layer


def set_layers(
    network: nn.Module, norm_cfg: Mapping[str, Any] | None = None, act_cfg: Mapping[str, Any] | None = None
) -> None:
    """Apply the settings of a config to the LayerNorms and GELUs of a network; None leaves them as they are.

    Args:
        network: The network; the constant of its GRN layers does not change.
        norm_cfg: ``dict(type='LN2d', eps=...)``.
        act_cfg: ``dict(type='GELU')``, with or without ``approximate``.

    Raises:
        UserError: A config names another layer, or a setting that these layers do not have.
    """
    eps = None if norm_cfg is None else _read_eps(norm_cfg)
    approximate = None if act_cfg is None else _read_approximate(act_cfg)
    for module in network.modules():
        if eps is not None and isinstance(module, LayerNorm | LayerNorm2d):
            module.eps = eps
        if approximate is not None and isinstance(module, nn.GELU):
            module.approximate = approximate


def check_stem(stem_patch_size: int) -> None:
    """Raise ``UserError`` unless the stem is the paper's, which determines the strides of the four maps."""
    if stem_patch_size != STEM_PATCH_SIZE:
        raise UserError(
            f"stem_patch_size={stem_patch_size!r} must be {STEM_PATCH_SIZE}: the maps have the strides 4, 8, 16, 32."
        )


def _read_eps(norm_cfg: Mapping[str, Any]) -> float:
    settings = _settings("norm_cfg", norm_cfg, ("LN2d", "LayerNorm2d"), "dict(type='LN2d', eps=1e-6)")
    eps = settings.pop("eps", _MMPRETRAIN_EPS)
    for name in ("requires_grad", "elementwise_affine", "bias"):
        if settings.pop(name, True) is not True:
            raise UserError(f"norm_cfg={dict(norm_cfg)} has {name}={norm_cfg[name]!r}; only True is supported.")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not eps > 0:
        raise UserError(f"norm_cfg={dict(norm_cfg)} has eps={eps!r}, which must be a number above 0.")
    _refuse_rest("norm_cfg", norm_cfg, settings, "type and eps")
    return float(eps)


def _read_approximate(act_cfg: Mapping[str, Any]) -> str:
    settings = _settings("act_cfg", act_cfg, ("GELU",), "dict(type='GELU')")
    approximate = settings.pop("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise UserError(f"act_cfg={dict(act_cfg)} has approximate={approximate!r}, which must be 'none' or 'tanh'.")
    _refuse_rest("act_cfg", act_cfg, settings, "type and approximate")
    return approximate


def _settings(argument: str, cfg: Mapping[str, Any], names: tuple[str, ...], allowed: str) -> dict[str, Any]:
    """Check and remove the type, which may be a class, or a name with or without the registry's scope."""
    kind = cfg.get("type") if isinstance(cfg, Mapping) else None
    name = getattr(kind, "__name__", str(kind)).split(".")[-1]
    if name not in names:
        raise UserError(f"{argument}={cfg!r} is not a layer of ConvNeXt; it must be {allowed}.")
    return {key: value for key, value in cfg.items() if key != "type"}


def _refuse_rest(argument: str, cfg: Mapping[str, Any], rest: Mapping[str, Any], allowed: str) -> None:
    if rest:
        raise UserError(f"{argument}={dict(cfg)} has {', '.join(rest)}; it takes {allowed}.")
