"""Initialisation by ``init_cfg``: mmengine's initialisers, and checkpoints that must load completely."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS

from convnext_dense.checkpoints import ClassRows, load_weights
from convnext_dense.errors import UserError

_PRETRAINED_KEYS = {"type", "checkpoint", "prefix", "map_location"}


def initialise(module: BaseModule, *, classes: ClassRows | None = None) -> None:
    """Apply ``module.init_cfg``: first the initialisers in turn, then the checkpoint, as mmengine does.

    mmengine itself would load whatever fits from the checkpoint and go on.

    Args:
        module: The module, whose constructor has initialised all weights.
        classes: See ``load_weights``.

    Raises:
        UserError: The checkpoint lacks a tensor or cannot be read, or ``init_cfg`` is not a config.
    """
    others, pretrained = _split(module.init_cfg)
    if pretrained is None:
        BaseModule.init_weights(module)
        return
    if module.is_init:
        return
    if others:
        init_cfg, module.init_cfg = module.init_cfg, others
        try:
            BaseModule.init_weights(module)
        finally:
            module.init_cfg = init_cfg
    load_weights(module, pretrained["checkpoint"], prefix=pretrained.get("prefix"), classes=classes)
    module._is_init = True


def _split(init_cfg: Any) -> tuple[list[Any], Mapping[str, Any] | None]:
    """Split a config or a list of configs into initialisers and the one that names a checkpoint."""
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or ())
    for entry in entries:
        if not isinstance(entry, Mapping) or "type" not in entry:
            raise UserError(f"init_cfg has {entry!r}, which is not a dict with a type.")
    pretrained = [entry for entry in entries if _is_pretrained(entry["type"])]
    if len(pretrained) > 1:
        raise UserError(f"init_cfg has {len(pretrained)} entries of type Pretrained; only one file can be loaded.")
    for entry in pretrained:
        unknown = sorted(set(entry) - _PRETRAINED_KEYS)
        if unknown or not entry.get("checkpoint"):
            what = f"has {', '.join(unknown)}" if unknown else "names no checkpoint"
            raise UserError(f"init_cfg={dict(entry)} {what}; Pretrained takes checkpoint and prefix.")
    return [entry for entry in entries if entry not in pretrained], next(iter(pretrained), None)


def _is_pretrained(kind: Any) -> bool:
    """Return whether a type, given as a name, a name with a scope or a class, is mmengine's ``Pretrained``."""
    initialiser = WEIGHT_INITIALIZERS.get(kind) if isinstance(kind, str) else kind
    return initialiser is WEIGHT_INITIALIZERS.get("Pretrained")
