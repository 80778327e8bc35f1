"""What ``init_cfg`` asks for: mmengine's initialisers as they are, and the weights of a file whole or not at all."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS

from convnext_dense.checkpoints import ClassRows, load_weights
from convnext_dense.errors import UserError

_PRETRAINED_KEYS = {"type", "checkpoint", "prefix", "map_location"}


def initialise(module: BaseModule, *, classes: ClassRows | None = None) -> None:
    """Do what ``module.init_cfg`` says: initialisers in turn, and a checkpoint last, as mmengine does.

    mmengine itself would load what fits of the checkpoint and go on.

    Args:
        module: Whose constructor has drawn all weights.
        classes: See ``load_weights``.

    Raises:
        UserError: The checkpoint does not hold every tensor, or cannot be read, or ``init_cfg`` is not a config.
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
    """Split a config or a list of them into initialisers and the one that names a checkpoint."""
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg or ())
    for entry in entries:
        if not isinstance(entry, Mapping) or "type" not in entry:
            raise UserError(f"init_cfg has {entry!r}, which is no dict with a type.")
    pretrained = [entry for entry in entries if _is_pretrained(entry["type"])]
    if len(pretrained) > 1:
        raise UserError(f"init_cfg has {len(pretrained)} entries of the type Pretrained; one file can be loaded.")
    for entry in pretrained:
        unknown = sorted(set(entry) - _PRETRAINED_KEYS)
        if unknown or not entry.get("checkpoint"):
            what = f"has {', '.join(unknown)}" if unknown else "names no checkpoint"
            raise UserError(f"init_cfg={dict(entry)} {what}; Pretrained takes checkpoint and prefix.")
    return [entry for entry in entries if entry not in pretrained], next(iter(pretrained), None)


def _is_pretrained(kind: Any) -> bool:
    """Whether a type, by name, by name with a scope, or as a class, is mmengine's ``Pretrained``."""
    found = WEIGHT_INITIALIZERS.get(kind) if isinstance(kind, str) else kind
    return found is WEIGHT_INITIALIZERS.get("Pretrained")
