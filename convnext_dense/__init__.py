"""ConvNeXt as the backbone of dense-prediction models in the OpenMMLab ecosystem.

Importing this package makes stock OpenMMLab run on current torch: it provides ``mmcv._ext`` where mmcv is not compiled,
lets checkpoints written by mmengine load with ``weights_only=True``, keeps both sides of a resized image at one pixel
or more, and lets configs be named by their packages. It imports neither torch nor OpenMMLab's packages, which are
changed when they are imported, and does not touch a compiled mmcv.
"""

from importlib import import_module
from typing import Any

from convnext_dense.openmmlab import (
    allow_mmengine_checkpoints,
    keep_a_pixel_on_resizing,
    name_shipped_configs,
    serve_mmcv_ops,
)

_COMMANDS = ("train", "test", "report")

__version__ = "0.1.0"

serve_mmcv_ops()
keep_a_pixel_on_resizing()
allow_mmengine_checkpoints()
name_shipped_configs()


def __dir__() -> list[str]:
    return [*globals(), *_COMMANDS, "load_model"]


def __getattr__(name: str) -> Any:
    """Import what notebooks use when it is asked for: ``train``, ``test``, ``report`` and ``load_model``."""
    if name in _COMMANDS:
        return getattr(import_module("convnext_dense.commands"), name)
    if name == "load_model":
        return import_module("convnext_dense.inference").load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
