"""The one place where errors of other libraries become sentences: of a config, of a run, of other processes."""

import contextlib
import errno
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import find_latest_checkpoint
from torch.distributed import DistError

from convnext_dense.errors import UserError
from convnext_dense.registry import HOOKS

# How gloo says that another process is gone; its errors are plain RuntimeErrors.
_GLOO_SIGNS = ("Connection closed", "Connection reset", "Broken pipe", "Timed out", "timed out", "timeout", "NCCL")
_IN_WORKER = "in DataLoader worker process"  # what torch writes before the traceback of a worker's error


@HOOKS.register_module()
class RunningHook(Hook):
    """Tells the building of a run from the run itself.

    Attributes:
        is_running: Whether all hooks that begin a training or a test are done.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.is_running = False

    def before_train(self, runner: Any) -> None:
        """Everything is built."""
        self.is_running = True

    before_val = before_test = before_train


@contextlib.contextmanager
def name_config_faults(cfg: Config, running: RunningHook | None = None) -> Iterator[None]:
    """Run what builds objects from a config.

    Args:
        cfg: The config.
        running: Says when nothing is built any more: later errors are left as they are.

    Raises:
        UserError: Something cannot be built from the config: a ``type`` is no class that is known, an argument is none
            of its class, or parts do not go together. The message says where it was noticed.
    """
    try:
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
def name_run_faults(work_dir: str) -> Iterator[None]:
    """Run a training or a test.

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
            f"{find_latest_checkpoint(work_dir) or 'none'}: make room, and go on from there with --resume."
        ) from error
    except cv2.error as error:
        raise UserError(
            f"OpenCV stopped on an image ({str(error).strip().splitlines()[-1]}): tools/check_dataset.py --all-images "
            "looks at every one. Checkpoints written so far are kept."
        ) from error
    except UserError as error:
        if _IN_WORKER not in str(error):
            raise
        sentence = str(error).strip().splitlines()[-1]
        raise UserError(sentence.partition("UserError: ")[2] or sentence) from error


def explain_lost_process(error: RuntimeError, last_checkpoint: str | None) -> str | None:
    """Say in one sentence that another process is gone or stuck, if that is what the error of a collective means."""
    if get_world_size() == 1 or not (isinstance(error, DistError) or any(sign in str(error) for sign in _GLOO_SIGNS)):
        return None
    return (
        f"Another process of this run is gone or stuck, process {get_rank()} cannot go on "
        f"({str(error).strip().splitlines()[0]}). The last checkpoint is {last_checkpoint or 'none'}: go on from there "
        "with --resume."
    )


def check_widths(model: Any, cfg: Config) -> None:
    """Hold the channels that a neck expects against those of the backbone.

    Raises:
        UserError: They differ, as after a change of ``arch`` alone.
    """
    while is_model_wrapper(model):
        model = model.module
    backbone: Any = getattr(model, "backbone", None)
    expected = getattr(getattr(model, "neck", None), "in_channels", None)
    if not hasattr(backbone, "get_layer_depth") or not isinstance(expected, list | tuple):  # none of ours
        return
    channels = [backbone.channels[level] for level in backbone.out_indices]
    if sorted(channels) != sorted(expected):  # YOLOv3's neck names the deepest map first
        raise UserError(
            f"Config {cfg.filename}: the neck has in_channels={list(expected)}, but the backbone "
            f"(arch={cfg.model.backbone.get('arch')!r}, out_indices={backbone.out_indices}) gives {channels}. Set "
            "model.neck.in_channels to these."
        )
