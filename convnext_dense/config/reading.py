"""Reads a config file, points it at data, and applies the command line's options last."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.config.options import apply_options
from convnext_dense.errors import UserError
from convnext_dense.shipped import find_config


def read_config(
    path: str | os.PathLike,
    options: Mapping[str, Any] | None = None,
    change: Callable[[Config], Config] | None = None,
    *,
    use_data: Callable[[Config], Any] | None = None,
) -> Config:
    """Read a config and override single values.

    Args:
        path: A Python config file of mmengine, or a name, see ``shipped.find_config``.
        options: See ``apply_options``. They take precedence over ``change`` and ``use_data``.
        change: Turns the config of the file into another one. It must also import the config's ``custom_imports``, some
            of which may no longer be needed.
        use_data: Changes the config in place according to a folder of data. It sees those options whose keys already
            exist, and cannot undo any.

    Raises:
        UserError: The file does not exist or is not a valid config, or an option does not fit it.
    """
    file = find_config(path)
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
