"""Sets a config to another step of the road from ResNet to ConvNeXt, and what follows from the step."""

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
    """Return what gives a config another step, for ``read_config``'s ``change``.

    Necks and heads follow the widths of the step. The work dir and the source of weights have ``REGIME_STEP`` in their
    names. ``drop_path_rates`` of the config says what each regime is trained with, where that differs.

    Args:
        step: A name of ``models.roadmap.STEPS``; by default the config's.
        regime: ``'resnet50'`` or ``'resnet200'``; by default the config's.

    Raises:
        UserError: There is no such step or regime, or the config's backbone is not ``RoadmapNet``.
    """

    def change(cfg: Config) -> Config:
        cfg = copy.deepcopy(cfg)
        backbone: Any = cfg.model.get("backbone") or {}
        if backbone.get("type") != "convnext_dense.RoadmapNet":
            raise UserError(
                f"--step and --regime are for configs of the roadmap; the backbone is {backbone.get('type')}."
            )
        init_default_scope(cfg.get("default_scope", "mmengine"))
        before, was = measure_backbone(backbone), f"{backbone.regime}_{backbone.step}"
        backbone.update(step=step or backbone.step, regime=regime or backbone.regime)
        get_decisions(backbone.step, backbone.regime)
        after, now = measure_backbone(backbone), f"{backbone.regime}_{backbone.step}"
        wiring = Wiring(before, after, tuple(range(len(after.channels))))
        wiring = rewire_necks(cfg.model, wiring, "model.")
        if not wiring.is_unchanged:
            rewire_heads(cfg.model, wiring, "model.", arch=None, backbone_kwargs={})
        cfg.work_dir = cfg.work_dir.replace(was, now)
        if backbone.get("init_cfg"):
            backbone.init_cfg.checkpoint = backbone.init_cfg.checkpoint.replace(was, now)
        if "drop_path_rates" in cfg:
            backbone.drop_path_rate = cfg.drop_path_rates[backbone.regime]
        return cfg

    return change
