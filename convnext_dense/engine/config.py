"""Reads a config file and applies ``--cfg-options`` to it; a name that is not there is an error, not a new key."""

import difflib
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
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


def read_config(
    path: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
    change: Callable[[Config], Config] | None = None,
) -> Config:
    """Reads a config and overrides single values.

    Args:
        path: A Python config file of mmengine, or ``PACKAGE::FOLDER/FILE.py`` for one that an installed mmdet or mmseg
            ships.
        options: Values by dotted key, list positions included (``train_dataloader.dataset.pipeline.0.type``). A key
            that starts with ``+`` is added; any other must exist.
        change: What is done to the config before ``options`` are applied. It also imports the config's
            ``custom_imports``, some of which it may have no more need for.

    Raises:
        ValueError: The file does not exist or is no valid config, a key does not exist (the nearest one is named), or
            a key is only a variable of the file whose change would have no effect.
    """
    file = _shipped_config(str(path)) if "::" in str(path) else Path(path)
    if not file.is_file():
        raise ValueError(f"Config {path} does not exist.{_nearest_file(file)}")
    try:
        cfg = Config.fromfile(file, import_custom_modules=change is None)
    except Exception as error:
        raise ValueError(f"Config {path} cannot be read: {type(error).__name__}: {error}") from error
    if "model" not in cfg:
        raise ValueError(f"Config {path} has no 'model'; it is not the config of a run.")
    if change is not None:
        cfg = change(cfg)

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


def _shipped_config(name: str) -> Path:
    """Finds the file of a name such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``."""
    package, _, path = name.partition("::")
    spec = importlib.util.find_spec(package) if package in {"mmdet", "mmseg"} else None
    if spec is None or spec.origin is None:
        raise ValueError(f"Config {name} names the package '{package}'; it must be mmdet or mmseg, and installed.")
    folder = Path(spec.origin).parent / ".mim" / "configs"
    if not (folder / path).is_file():
        shipped = sorted(file.relative_to(folder).as_posix() for file in folder.glob("*/*.py"))
        nearest = difflib.get_close_matches(path, shipped, n=1, cutoff=0.0)
        raise ValueError(f"Config {name} does not exist. Did you mean {package}::{nearest[0]}?")
    return folder / path


def _nearest_file(path: Path) -> str:
    names = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.parent / nearest[0]}?" if nearest else ""
