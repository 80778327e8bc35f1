"""Turns what mmengine and the model say about a wrong config, each in its own way, into one sentence."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper

_BUILDER = "build_functions.py"  # of mmengine.registry, where names and arguments of a config meet the classes

# Where the parts of a config are held against each other, and functions there that do it.
_CHECKERS = (
    "mmengine/runner/runner.py",
    "mmengine/runner/_flexible_runner.py",
    "mmengine/runner/loops.py",
    "mmengine/hooks/ema_hook.py",
    "torch/utils/data/dataloader.py",
)
_CHECKS = ("__init__", "build_", "_check_", "before_train")


@contextlib.contextmanager
def name_config_faults(cfg: Config) -> Iterator[None]:
    """Runs what builds objects from a config.

    Raises:
        ValueError: A ``type`` is no class that is known, an argument is none of its class, or parts that belong
            together do not go together.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        is_built = frame.filename.endswith(_BUILDER) and isinstance(error, KeyError | TypeError)
        is_checked = frame.name.startswith(_CHECKS) and Path(frame.filename).as_posix().endswith(_CHECKERS)
        if not error.args or not (is_built or is_checked):
            raise
        text = str(error.args[0]).split(". Please check")[0].rstrip(".")
        raise ValueError(f"Config {cfg.filename}: {text}. Correct it in the config or in --cfg-options.") from error


def check_widths(model: Any, cfg: Config) -> None:
    """Holds the channels that a neck expects against those of the backbone.

    Raises:
        ValueError: They differ, as after a change of ``arch`` alone.
    """
    while is_model_wrapper(model):
        model = model.module
    backbone: Any = getattr(model, "backbone", None)
    expected = getattr(getattr(model, "neck", None), "in_channels", None)
    if not hasattr(backbone, "get_layer_depth") or not isinstance(expected, list | tuple):  # none of ours
        return
    channels = [backbone.channels[level] for level in backbone.out_indices]
    if sorted(channels) != sorted(expected):  # YOLOv3's neck names the deepest map first
        raise ValueError(
            f"Config {cfg.filename}: the neck has in_channels={list(expected)}, but the backbone "
            f"(arch={cfg.model.backbone.get('arch')!r}, out_indices={backbone.out_indices}) gives {channels}. Set "
            "model.neck.in_channels to these."
        )
