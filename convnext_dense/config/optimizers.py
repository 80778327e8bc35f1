"""The optimizers of a config."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config


def wrapper_configs(cfg: Config) -> Iterator[Any]:
    """Yield the configs of the optimizer wrappers: a single one, or each of several."""
    node = cfg.get("optim_wrapper")
    if node is None:
        return
    several = [child for child in node.values() if isinstance(child, dict) and "optimizer" in child]
    yield from several if several and "optimizer" not in node else [node]
