"""Turns what mmengine and the model say about a wrong config, each in its own way, into one sentence."""

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper

_BUILDER = "build_functions.py"  # of mmengine.registry, where names and arguments of a config meet the classes


@contextlib.contextmanager
def name_config_faults(cfg: Config) -> Iterator[None]:
    """Runs what builds objects from a config.

    Raises:
        ValueError: A ``type`` is no class that is known, or an argument is none of its class.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        if not traceback.extract_tb(error.__traceback__)[-1].filename.endswith(_BUILDER):
            raise
        text = str(error.args[0]).split(". Please check")[0]
        raise ValueError(f"Config {cfg.filename}: {text}. Correct it in the config or in --cfg-options.") from error


def check_widths(model: Any, cfg: Config) -> None:
    """Holds the channels that a neck expects against those of the backbone.

    Raises:
        ValueError: They differ, as after a change of ``arch`` alone.
    """
    while is_model_wrapper(model):
        model = model.module
    backbone = getattr(model, "backbone", None)
    expected = getattr(getattr(model, "neck", None), "in_channels", None)
    if not hasattr(backbone, "get_layer_depth") or not isinstance(expected, list | tuple):  # none of ours
        return
    channels = [backbone.channels[level] for level in backbone.out_indices]
    if channels != [*expected]:
        raise ValueError(
            f"Config {cfg.filename}: the neck has in_channels={list(expected)}, but the backbone "
            f"(arch={cfg.model.backbone.get('arch')!r}, out_indices={backbone.out_indices}) gives {channels}. Set "
            "model.neck.in_channels to these."
        )
