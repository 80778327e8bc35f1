"""Lets a config import a module that defines its classes, now and wherever the config is read again."""

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings


def add_import(cfg: Config, module: str) -> None:
    """Import a module, and add it to the ``custom_imports`` of a config, in place."""
    imports = cfg.get("custom_imports") or dict(imports=[])
    names = imports["imports"] if isinstance(imports["imports"], list | tuple) else [imports["imports"]]
    if module not in names:
        cfg.custom_imports = dict(imports, imports=[*names, module])
    import_modules_from_strings([module])
