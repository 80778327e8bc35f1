"""The optimizers that a config names."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config


def wrapper_configs(cfg: Config) -> Iterator[Any]:
    """Find the configs of optimizer wrappers: the config's own, or where it names several, each of them."""
    node = cfg.get("optim_wrapper")
    if node is None:
        return
    several = [child for child in node.values() if isinstance(child, dict) and "optimizer" in child]
    yield from several if several and "optimizer" not in node else [node]
