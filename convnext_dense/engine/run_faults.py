"""Turns what happens in the middle of a run, to its data, its disk or its other processes, into one sentence."""

import contextlib
import errno
from collections.abc import Iterator

import cv2
from mmengine.runner import find_latest_checkpoint

from convnext_dense.engine.processes import explain_lost_process

_UNREADABLE = "failed to load image: "  # what mmcv's LoadImageFromFile asserts
_IN_WORKER = "in DataLoader worker process"  # what torch puts before an error of a data set


@contextlib.contextmanager
def name_run_faults(work_dir: str) -> Iterator[None]:
    """Runs a training or a test.

    Raises:
        ValueError: Another process is gone, the disk is full, or an image cannot be read; the message names the last
            checkpoint or the image.
    """
    try:
        yield
    except RuntimeError as error:
        message = explain_lost_process(error, find_latest_checkpoint(work_dir))
        if message is None:
            raise
        raise ValueError(message) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ValueError(
            f"The disk is full ({error.filename or work_dir}). The last checkpoint is "
            f"{find_latest_checkpoint(work_dir) or 'none'}: make room, and go on from there with --resume."
        ) from error
    except AssertionError as error:
        if _UNREADABLE in str(error):
            file = str(error).split(_UNREADABLE)[-1].strip()
            raise ValueError(
                f"Image {file} cannot be decoded: it is truncated or not an image. Copy it again or take it out of the "
                "annotation file; checkpoints written so far are kept."
            ) from error
        raise
    except cv2.error as error:
        raise ValueError(
            f"OpenCV stopped on an image ({str(error).strip().splitlines()[-1]}): tools/check_dataset.py --all-images "
            "looks at every one. Checkpoints written so far are kept."
        ) from error
    except ValueError as error:
        if _IN_WORKER in str(error):  # torch hands over the traceback as text
            raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error
        raise
