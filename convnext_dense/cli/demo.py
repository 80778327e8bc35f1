"""Train, test and use a small model on drawn shapes, in the current folder: about ten minutes on two CPU cores.

What is done already is not done again; an interrupted training goes on where it was.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from convnext_dense.signals import EXIT_CODES

_PICTURES = 12


class Step(NamedTuple):
    """A part of a demo.

    Attributes:
        title: What is done.
        commands: Arguments of commands.
    """

    title: str
    commands: Sequence[Sequence[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument(
        "--segmentation", action="store_true", help="UperNet on label images, about five minutes, instead of a detector"
    )


def run(args: argparse.Namespace) -> None:
    """Do one step after the other."""
    steps, name, images, pictures = _segmentation() if args.segmentation else _detection()
    for number, step in enumerate(steps, start=1):
        print(f"== {number}/{len(steps) + 1} {step.title}", flush=True)
        for command in step.commands:
            _start(command)
    print(f"== {len(steps) + 1}/{len(steps) + 1} Pictures of predictions", flush=True)
    shown = sorted(map(str, Path(images).glob("*.jpg")))[:_PICTURES]
    _start(["infer", f"demo/{name}", _checkpoint(name), *shown, "--out-dir", pictures, "--score-thr", "0.5"])
    print(f"== Done. Checkpoint: {_checkpoint(name)}   Pictures: {pictures}")


def _detection() -> tuple[list[Step], str, str, str]:
    """Return the steps, the config of the model, the folder of images, and that of pictures."""
    pretraining, name = "pretrain_convnext_atto_shapes", "mask_rcnn_convnext_atto_shapes_pretrained"
    crops = ["--layout", "crops", "--num-train", "3000", "--num-val", "600"]
    steps = [
        Step(
            "Data: drawing images with masks into data/shapes and single shapes into data/shapes_crops",
            [["make-shapes", "data/shapes"], ["make-shapes", "data/shapes_crops", *crops]],
        ),
        Step(
            "Pre-training ConvNeXt-atto as a classifier of single shapes, about two minutes on two CPU cores",
            [["train", f"demo/{pretraining}", "--resume"]],
        ),
        Step("Top-1 accuracy on held-out crops", [["test", f"demo/{pretraining}", _PLACE + pretraining]]),
        Step(
            "Training Mask R-CNN on the pre-trained backbone, about seven minutes",
            [["train", f"demo/{name}", "--resume"]],
        ),
        Step("Testing on held-out images", [["test", f"demo/{name}", _PLACE + name]]),
    ]
    return steps, name, "data/shapes/val2017", "outputs/demo"


def _segmentation() -> tuple[list[Step], str, str, str]:
    name = "upernet_convnext_atto_shapes"
    steps = [
        Step(
            "Data: drawing images with labels into data/shapes_ade",
            [["make-shapes", "data/shapes_ade", "--layout", "ade"]],
        ),
        Step(
            "Training UperNet on ConvNeXt-atto from random weights, about three minutes on two CPU cores",
            [["train", f"demo/{name}", "--resume"]],
        ),
        Step("Testing on held-out images", [["test", f"demo/{name}", _PLACE + name]]),
    ]
    return steps, name, "data/shapes_ade/images/validation", "outputs/demo-segmentation"


_PLACE = "last checkpoint of "


def _checkpoint(name: str) -> str:
    return Path("work_dirs", name, "last_checkpoint").read_text(encoding="utf-8").strip()


def _start(command: Sequence[str]) -> None:
    """Run a command in a process of its own, and end with its exit code if it fails.

    A signal goes on to it, which may have something to save; Ctrl-C reaches it by itself.
    """
    arguments = [_checkpoint(one.removeprefix(_PLACE)) if one.startswith(_PLACE) else one for one in command]
    # A second thread makes these small steps a fifth faster on idle cores, and several times slower on busy ones.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    child = subprocess.Popen([sys.executable, "-m", "convnext_dense", *arguments], env=environment)

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in EXIT_CODES}
    try:
        code = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if code != 0:
        sys.exit(code)
