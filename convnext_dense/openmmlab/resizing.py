"""Lets mmcv resize very thin images, and resize and pad images of more than four channels.

A picture of 3000 x 2 pixels that is fitted into 128 x 128 keeps 0.09 pixels of its height, and OpenCV refuses a size of
0. Here one pixel is kept, as in Pillow's and torchvision's resizing; all other sizes are the same as in mmcv.

OpenCV takes no value of a border for more than four channels, and does not resize them by area. Here these go through
OpenCV four at a time; images of up to four channels take the same way as in mmcv.

Source: ``_scale_size``, ``imresize`` and ``impad`` of
https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/image/geometric.py, which all transforms and masks of mmdet and
mmseg use.
"""

import functools
import itertools
import sys
from typing import Any

import numpy as np

from convnext_dense.openmmlab.importing import change_on_import

MODULE_NAME = "mmcv.image.geometric"
_USERS = ("mmcv", "mmcv.image")  # modules that import the functions by name
_CHANGED = ("imresize", "impad")
_MOST = 4  # channels of OpenCV's Scalar


def keep_a_pixel_on_resizing() -> None:
    """Make mmcv's resizing keep at least one pixel per side, and take any number of channels, as its padding.

    See ``change_on_import``.
    """
    change_on_import(MODULE_NAME, _change_everywhere)


def _change_everywhere(module: Any) -> None:
    """Change the module, and what other modules have imported from it."""
    originals = {function: getattr(module, function) for function in _CHANGED}
    _change(module)
    for name in _USERS:
        for function, original in originals.items():
            if getattr(sys.modules.get(name), function, None) is original:
                setattr(sys.modules[name], function, getattr(module, function))


def _change(module: Any) -> None:
    if hasattr(module.imresize, "keeps_a_pixel"):
        return
    scale_size, resize, pad = module._scale_size, module.imresize, module.impad

    @functools.wraps(scale_size)
    def scale_size_to_pixels(size: tuple[int, int], scale: Any) -> tuple[int, int]:
        width, height = scale_size(size, scale)
        return max(width, 1), max(height, 1)

    @functools.wraps(resize)
    def resize_to_pixels(img: Any, size: tuple[int, int], *args: Any, **kwargs: Any) -> Any:
        size = (max(size[0], 1), max(size[1], 1))
        # The arguments: return_scale, interpolation.
        if _num_channels(img) <= _MOST or "area" not in (kwargs.get("interpolation"), *args[1:2]):
            return resize(img, size, *args, **kwargs)
        resized = [resize(part, size, *args, **kwargs) for part in _parts(img)]
        if isinstance(resized[0], tuple):
            return _join([part[0] for part in resized]), *resized[0][1:]
        return _join(resized)

    @functools.wraps(pad)
    def pad_any_channels(img: Any, *, pad_val: Any = 0, **kwargs: Any) -> Any:
        if _num_channels(img) <= _MOST:
            return pad(img, pad_val=pad_val, **kwargs)
        number = _num_channels(img)
        values = pad_val if isinstance(pad_val, tuple) else (pad_val,) * number
        if len(values) != number:
            raise ValueError(f"pad_val={pad_val} must have one value per channel, {number}, or one for all.")
        pairs = zip(_parts(img), _parts(values), strict=True)
        return _join([pad(part, pad_val=tuple(value), **kwargs) for part, value in pairs])

    resize_to_pixels.keeps_a_pixel = True  # type: ignore[attr-defined]
    module._scale_size, module.imresize, module.impad = scale_size_to_pixels, resize_to_pixels, pad_any_channels


def _num_channels(img: Any) -> int:
    return img.shape[2] if img.ndim == 3 else 1


def _parts(values: Any) -> list[Any]:
    """Cut the last axis of an image, or a tuple, into pieces of two to four, which keep their axis in OpenCV."""
    length = len(values) if isinstance(values, tuple) else values.shape[2]
    num_parts = -(-length // _MOST)
    edges = [length * part // num_parts for part in range(num_parts + 1)]
    pieces = [slice(*pair) for pair in itertools.pairwise(edges)]
    if isinstance(values, tuple):
        return [values[piece] for piece in pieces]
    return [np.ascontiguousarray(values[..., piece]) for piece in pieces]


def _join(parts: list[Any]) -> Any:
    return np.concatenate(parts, axis=2)
