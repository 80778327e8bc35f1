"""Lets mmengine read configs by the names of packages: in ``Config.fromfile`` and in ``_base_`` of any config.

mmengine knows ``_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'`` for OpenMMLab's own packages, and looks for
the package with ``pkg_resources``, which setuptools has removed. Here the package is found with ``importlib``, and this
package's configs have names too.

Source: ``Config._get_cfg_path`` and ``Config.fromfile`` of
https://github.com/open-mmlab/mmengine/blob/v0.10.7/mmengine/config/config.py
Differs: the parts of one of our configs stay in the scope that it names as ``default_scope``, which is mmdet's or
mmseg's.
"""

import functools
from typing import Any

from convnext_dense.openmmlab.importing import change_on_import
from convnext_dense.shipped import OURS, PACKAGES, find_shipped


def name_shipped_configs() -> None:
    """Make mmengine find ``PACKAGE::PATH``, see ``change_on_import``."""
    change_on_import("mmengine.config.config", _change)


def _is_shipped(name: Any) -> bool:
    return isinstance(name, str) and name.partition("::")[0] in PACKAGES and "::" in name


def _change(module: Any) -> None:
    stock = module.Config
    if hasattr(stock.fromfile, "finds_shipped"):
        return
    get_cfg_path, fromfile = stock._get_cfg_path, stock.fromfile

    @functools.wraps(get_cfg_path)
    def find_base(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if not _is_shipped(cfg_path):
            return get_cfg_path(cfg_path, filename)
        package = cfg_path.partition("::")[0]
        return str(find_shipped(cfg_path)), None if package == OURS else package

    @functools.wraps(fromfile)
    def read(filename: Any, *args: Any, **kwargs: Any) -> Any:
        return fromfile(find_shipped(filename) if _is_shipped(filename) else filename, *args, **kwargs)

    read.finds_shipped = True  # type: ignore[attr-defined]
    stock._get_cfg_path, stock.fromfile = staticmethod(find_base), staticmethod(read)
