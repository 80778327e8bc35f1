"""Reads a config file and applies ``--cfg-options`` to it; a name that is not there is an error, not a new key."""

import difflib
import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

# Keys that a config may have at its top besides the Runner's own arguments.
_MORE_KEYS = {
    "tta_model",
    "tta_pipeline",
    "compile",
    "activation_checkpointing",
    "find_unused_parameters",
    "effective_batch",
    "strategy",
}


def read_config(path: str | os.PathLike, options: Mapping[str, Any] | None = None) -> Config:
    """Reads a config and overrides single values.

    Args:
        path: A Python config file of mmengine.
        options: Values by dotted key, list positions included (``train_dataloader.dataset.pipeline.0.type``). A key
            that starts with ``+`` is added; any other must exist.

    Raises:
        ValueError: The file does not exist or is no valid config, a key does not exist (the nearest one is named), or
            a key is only a variable of the file whose change would have no effect.
    """
    if not Path(path).is_file():
        raise ValueError(f"Config {path} does not exist.{_nearest_file(Path(path))}")
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise ValueError(f"Config {path} cannot be read: {type(error).__name__}: {error}") from error
    if "model" not in cfg:
        raise ValueError(f"Config {path} has no 'model'; it is not the config of a run.")

    overrides = {}
    for key, value in (options or {}).items():
        if not key.startswith("+"):
            _check_key(cfg, key, path)
        overrides[key.removeprefix("+")] = value
    cfg.merge_from_dict(overrides)
    return cfg


def _check_key(cfg: Config, key: str, path: str | os.PathLike) -> None:
    known = sorted(_dotted_keys(cfg.to_dict()))
    if key not in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise ValueError(
            f"Config {path} has no key '{key}'. The nearest is '{nearest[0]}'; write '+{key}=...' to add a new key."
        )
    variable = key.split(".")[0]
    if variable not in _run_keys():
        value = _lookup(cfg, key)
        holders = [name for name in known if name.split(".")[0] in _run_keys() and _lookup(cfg, name) == value]
        hint = f"; its value stands in {', '.join(holders[:6])}" if holders else ""
        raise ValueError(
            f"'{variable}' is a variable of {path}: after reading, changing it has no effect{hint}. Override those keys"
            f"{', or name your data with --data' if key.endswith('data_root') else ''}."
        )


def _run_keys() -> set[str]:
    return set(inspect.signature(Runner.__init__).parameters) | _MORE_KEYS


def _dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _dotted_keys(value, f"{prefix}{key}.")


def _lookup(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
    return node


def _nearest_file(path: Path) -> str:
    names = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.parent / nearest[0]}?" if nearest else ""
