"""The one place where errors of other libraries are translated into a ``UserError``."""

import contextlib
import errno
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cv2
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import find_latest_checkpoint
from torch.distributed import DistError

from convnext_dense.config.datasets import config_dicts
from convnext_dense.errors import UserError, first_line
from convnext_dense.registry import HOOKS

# Texts of gloo's errors when another process is gone; they are plain RuntimeErrors, with no other sign of the cause.
_GLOO_SIGNS = ("Connection closed", "Connection reset", "Broken pipe", "Timed out", "timed out", "timeout", "NCCL")
# torch raises a worker's error again with the same class and this text before its traceback, and no other sign of it.
_IN_WORKER = "in DataLoader worker process"


@HOOKS.register_module()
class RunningHook(Hook):
    """Records when a run has been built and starts.

    Attributes:
        is_running: Whether all hooks that run before training or a test have finished.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.is_running = False

    def before_train(self, runner: Any) -> None:
        """Record that the run starts; everything is built by now."""
        self.is_running = True

    before_val = before_test = before_train


@contextlib.contextmanager
def name_config_faults(cfg: Config, running: RunningHook | None = None) -> Iterator[None]:
    """Translate errors of building objects from a config, in a ``with`` block.

    Args:
        cfg: The config.
        running: Hook that records when the run starts; errors after that are not translated.

    Raises:
        UserError: An object cannot be built from the config: its ``type`` is unknown, it does not take an argument, or
            parts do not fit together; or weights cannot be downloaded. The message says where the error was raised.
    """
    try:
        with name_missing_weights(cfg):
            yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        if (running is not None and running.is_running) or not error.args:
            raise
        text = str(error.args[0]).split(". Please check")[0].rstrip(".")
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"Config {cfg.filename}: {text} ({type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}). "
            "Correct it in the config or in --cfg-options."
        ) from error


@contextlib.contextmanager
def name_missing_weights(cfg: Config) -> Iterator[None]:
    """Translate the error of a download that a model's config asks for, in a ``with`` block.

    Raises:
        UserError: Weights cannot be downloaded.
    """
    try:
        yield
    except URLError as error:
        named = [part["checkpoint"] for part in config_dicts(cfg.model) if isinstance(part.get("checkpoint"), str)]
        raise UserError(
            f"Config {cfg.filename}: weights cannot be downloaded ({error.reason}). The model names "
            f"{', '.join(named) or 'some'}: set init_cfg.checkpoint to a file there, or init_cfg=None for random ones."
        ) from error


@contextlib.contextmanager
def name_run_faults(work_dir: str) -> Iterator[None]:
    """Translate errors of a training or test run, in a ``with`` block.

    Raises:
        UserError: Another process is gone, the disk is full, or an image cannot be read; the message names the last
            checkpoint or the image.
    """
    try:
        yield
    except RuntimeError as error:
        message = explain_lost_process(error, find_latest_checkpoint(work_dir))
        if message is None:
            raise
        raise UserError(message) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(
            f"The disk is full ({error.filename or work_dir}). The last checkpoint is "
            f"{find_latest_checkpoint(work_dir) or 'none'}: free some space and continue from there with --resume."
        ) from error
    except cv2.error as error:
        raise UserError(
            f"OpenCV failed on an image ({str(error).strip().splitlines()[-1]}): run tools/check_dataset.py "
            "--all-images to check every image. Checkpoints written so far are kept."
        ) from error
    except UserError as error:
        if _IN_WORKER not in str(error):
            raise
        sentence = str(error).strip().splitlines()[-1]
        raise UserError(sentence.partition("UserError: ")[2] or sentence) from error


def explain_lost_process(error: RuntimeError, last_checkpoint: str | None) -> str | None:
    """Return a message that another process is gone or stuck; None if the error means something else."""
    if get_world_size() == 1 or not (isinstance(error, DistError) or any(sign in str(error) for sign in _GLOO_SIGNS)):
        return None
    return (
        f"Another process of this run is gone or stuck, and process {get_rank()} cannot go on ({first_line(error)}). "
        f"The last checkpoint is {last_checkpoint or 'none'}: continue from there with --resume."
    )


def check_widths(model: Any, cfg: Config) -> None:
    """Check that the channels that a neck expects are those of the backbone.

    Raises:
        UserError: They differ, as they do if only ``arch`` is changed.
    """
    while is_model_wrapper(model):
        model = model.module
    backbone: Any = getattr(model, "backbone", None)
    expected = getattr(getattr(model, "neck", None), "in_channels", None)
    if not hasattr(backbone, "get_layer_depth") or not isinstance(expected, list | tuple):  # not one of ours
        return
    channels = [backbone.channels[level] for level in backbone.out_indices]
    if sorted(channels) != sorted(expected):  # YOLOv3's neck lists the deepest map first
        raise UserError(
            f"Config {cfg.filename}: the neck has in_channels={list(expected)}, but the backbone "
            f"(arch={cfg.model.backbone.get('arch')!r}, out_indices={backbone.out_indices}) gives {channels}. Set "
            "model.neck.in_channels to these."
        )
