"""Set a config to another step of the roadmap from ResNet to ConvNeXt."""

import copy
from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.errors import UserError
from convnext_dense.models.roadmap import get_decisions
from convnext_dense.plug.levels import Wiring, measure_backbone
from convnext_dense.plug.rewiring import rewire_heads, rewire_necks


def take_step(step: str | None = None, regime: str | None = None) -> Callable[[Config], Config]:
    """Return a function that sets a config to another step, for the argument ``change`` of ``read_config``.

    Necks and heads are rewired to the channels of the step. ``REGIME_STEP`` is replaced in the names of the work dir
    and of the source of weights. ``drop_path_rates`` of the config, if any, gives the drop path rate of each regime.

    Args:
        step: One of ``models.roadmap.STEPS``; by default that of the config.
        regime: ``'resnet50'`` or ``'resnet200'``; by default that of the config.

    Raises:
        UserError: There is no such step or regime, or the backbone of the config is not ``RoadmapNet``.
    """

    def change(cfg: Config) -> Config:
        cfg = copy.deepcopy(cfg)
        backbone: Any = cfg.model.get("backbone") or {}
        if backbone.get("type") != "convnext_dense.RoadmapNet":
            raise UserError(f"--step and --regime are for RoadmapNet; the config's backbone is {backbone.get('type')}.")
        init_default_scope(cfg.get("default_scope", "mmengine"))
        before, old_name = measure_backbone(backbone), f"{backbone.regime}_{backbone.step}"
        backbone.update(step=step or backbone.step, regime=regime or backbone.regime)
        get_decisions(backbone.step, backbone.regime)
        after, new_name = measure_backbone(backbone), f"{backbone.regime}_{backbone.step}"
        wiring = Wiring(before, after, tuple(range(len(after.channels))))
        wiring = rewire_necks(cfg.model, wiring, "model.")
        if not wiring.is_unchanged:
            rewire_heads(cfg.model, wiring, "model.", arch=None, backbone_kwargs={})
        cfg.work_dir = cfg.work_dir.replace(old_name, new_name)
        if backbone.get("init_cfg"):
            backbone.init_cfg.checkpoint = backbone.init_cfg.checkpoint.replace(old_name, new_name)
        if "drop_path_rates" in cfg:
            backbone.drop_path_rate = cfg.drop_path_rates[backbone.regime]
        return cfg

    return change
