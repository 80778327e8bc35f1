"""Lets mmcv resize very thin images, whose shorter side would be rounded to zero pixels.

A picture of 3000 x 2 pixels that is fitted into 128 x 128 keeps 0.09 pixels of its height, and OpenCV refuses a size of
0. Here one pixel is kept, as in Pillow's and torchvision's resizing; all other sizes are the same as in mmcv.

Source: ``_scale_size`` and ``imresize`` of https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/image/geometric.py,
which all transforms and masks of mmdet and mmseg use for resizing.
"""

import functools
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE_NAME = "mmcv.image.geometric"
_USERS = ("mmcv", "mmcv.image")  # modules that import the function by name


class ResizingFinder(MetaPathFinder):
    """Finds ``mmcv.image.geometric`` as Python does, and patches it after it is executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the usual spec with a loader that calls ``_keep_a_pixel`` at the end; ``None`` for any other name."""
        spec = PathFinder.find_spec(fullname, path) if fullname == MODULE_NAME else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                _keep_a_pixel(module)

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def keep_a_pixel_on_resizing() -> None:
    """Make mmcv's resizing keep at least one pixel per side, in this process and in those that it starts.

    This call imports nothing; a second call changes nothing.
    """
    loaded = sys.modules.get(MODULE_NAME)
    if loaded is not None:
        original = loaded.imresize
        _keep_a_pixel(loaded)
        for name in _USERS:
            if getattr(sys.modules.get(name), "imresize", None) is original:
                sys.modules[name].imresize = loaded.imresize  # type: ignore[attr-defined]
    elif not any(isinstance(finder, ResizingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, ResizingFinder())


def _keep_a_pixel(module: Any) -> None:
    if hasattr(module.imresize, "keeps_a_pixel"):
        return
    scale_size, resize = module._scale_size, module.imresize

    @functools.wraps(scale_size)
    def scale_size_to_pixels(size: tuple[int, int], scale: Any) -> tuple[int, int]:
        width, height = scale_size(size, scale)
        return max(width, 1), max(height, 1)

    @functools.wraps(resize)
    def resize_to_pixels(img: Any, size: tuple[int, int], *args: Any, **kwargs: Any) -> Any:
        return resize(img, (max(size[0], 1), max(size[1], 1)), *args, **kwargs)

    resize_to_pixels.keeps_a_pixel = True  # type: ignore[attr-defined]
    module._scale_size, module.imresize = scale_size_to_pixels, resize_to_pixels
