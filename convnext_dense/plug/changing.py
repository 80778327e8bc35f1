"""Puts a named backbone into the config of a run."""

from collections.abc import Callable

from mmengine.config import Config

from convnext_dense.config.differences import diff_configs
from convnext_dense.plug.default_weights import default_weights
from convnext_dense.plug.plugging import has_weights, parse_backbone, plug_backbone


def change_backbone(name: str, weights: str | None) -> Callable[[Config], Config]:
    """Return a function that puts ConvNeXt into a config, and prints what it changes.

    Args:
        name: ``convnext-ARCH``, ``convnextv2-ARCH`` or ``dinov3-convnext-ARCH``.
        weights: Source of the weights; None for those of the name in fine-tuning configs, and else for none.

    Raises:
        UserError: There is no such backbone.
    """
    arch, kwargs = parse_backbone(name)

    def change(cfg: Config) -> Config:
        needs_weights = weights is None and "finetune" in cfg and has_weights(cfg.model)
        plugged = plug_backbone(cfg, arch, default_weights(name) if needs_weights else weights, **kwargs)
        print(diff_configs(cfg, plugged))
        return plugged

    return change
