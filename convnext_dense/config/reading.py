"""Reads a config file, points it at data, and applies the command line's options last."""

import difflib
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.config.options import apply_options
from convnext_dense.errors import UserError


def read_config(
    path: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
    change: Callable[[Config], Config] | None = None,
    *,
    use_data: Callable[[Config], Any] | None = None,
) -> Config:
    """Read a config and override single values.

    Args:
        path: A Python config file of mmengine, or ``PACKAGE::FOLDER/FILE.py`` for one that an installed mmdet or mmseg
            ships.
        options: See ``apply_options``. They take precedence over ``change`` and ``use_data``.
        change: Turns the config of the file into another one. It must also import the config's ``custom_imports``, some
            of which may no longer be needed.
        use_data: Changes the config in place according to a folder of data. It sees those options whose keys already
            exist, and cannot undo any.

    Raises:
        UserError: The file does not exist or is not a valid config, or an option does not fit it.
    """
    file = _shipped_config(str(path)) if "::" in str(path) else Path(path)
    if not file.is_file():
        raise UserError(f"Config {path} does not exist.{_nearest_file(file)}")
    try:
        cfg = Config.fromfile(file, import_custom_modules=change is None)
    except Exception as error:
        raise UserError(f"Config {path} cannot be read: {type(error).__name__}: {error}") from error
    if "model" not in cfg:
        raise UserError(f"Config {path} has no 'model'; it is not the config of a run.")
    if change is not None:
        cfg = change(cfg)
    if use_data is not None:
        apply_options(cfg, options, path, is_draft=True)
        init_default_scope(cfg.get("default_scope", "mmengine"))  # names such as CocoDataset are looked up in it
        use_data(cfg)
    apply_options(cfg, options, path)
    return cfg


def _shipped_config(name: str) -> Path:
    """Return the path of a name such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``."""
    package, _, path = name.partition("::")
    spec = importlib.util.find_spec(package) if package in {"mmdet", "mmseg"} else None
    if spec is None or spec.origin is None:
        raise UserError(f"Config {name} names the package '{package}'; it must be mmdet or mmseg, and installed.")
    folder = Path(spec.origin).parent / ".mim" / "configs"
    if not (folder / path).is_file():
        shipped = sorted(file.relative_to(folder).as_posix() for file in folder.glob("*/*.py"))
        nearest = difflib.get_close_matches(path, shipped, n=1, cutoff=0.0)
        raise UserError(f"Config {name} does not exist. Did you mean {package}::{nearest[0]}?")
    return folder / path


def _nearest_file(path: Path) -> str:
    names = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {path.parent / nearest[0]}?" if nearest else ""
