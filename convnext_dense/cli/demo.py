"""Train, test and use a small model on drawn shapes, in the current folder.

It takes about ten minutes on two CPU cores. What is done already is not done
again; an interrupted training goes on where it was.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from convnext_dense.signals import EXIT_CODES

_PICTURES = 12
_CLASSIFIER = "pretrain_convnext_atto_shapes"
_DETECTOR = "mask_rcnn_convnext_atto_shapes_pretrained"
_SEGMENTER = "upernet_convnext_atto_shapes"


# A title and commands; a step is asked for when those before it are done.
Steps = Iterator[tuple[str, Sequence[Sequence[str]]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument(
        "--segmentation", action="store_true", help="UperNet on label images, about five minutes, instead of a detector"
    )


def run(args: argparse.Namespace) -> None:
    """Do one step after the other."""
    if args.segmentation:
        steps, total, name, pictures = _segmentation, 4, _SEGMENTER, "outputs/demo-segmentation"
    else:
        steps, total, name, pictures = _detection, 6, _DETECTOR, "outputs/demo"
    for number, (title, commands) in enumerate(steps(pictures), start=1):
        print(f"== {number}/{total} {title}", flush=True)
        for command in commands:
            _start(command)
    print(f"== Done. Checkpoint: {_checkpoint(name)}   Pictures: {pictures}")


def _detection(pictures: str) -> Steps:
    crops = ["--layout", "crops", "--num-train", "3000", "--num-val", "600"]
    yield (
        "Data: drawing images with masks into data/shapes and single shapes into data/shapes_crops",
        [["make-shapes", "data/shapes"], ["make-shapes", "data/shapes_crops", *crops]],
    )
    yield (
        "Pre-training ConvNeXt-atto as a classifier of single shapes, about two minutes on two CPU cores",
        [["train", f"demo/{_CLASSIFIER}", "--resume"]],
    )
    yield "Top-1 accuracy on held-out crops", [["test", f"demo/{_CLASSIFIER}", _checkpoint(_CLASSIFIER)]]
    yield (
        "Training Mask R-CNN on the pre-trained backbone, about seven minutes",
        [["train", f"demo/{_DETECTOR}", "--resume"]],
    )
    yield from _use(_DETECTOR, "data/shapes/val2017", pictures)


def _segmentation(pictures: str) -> Steps:
    yield (
        "Data: drawing images with labels into data/shapes_ade",
        [["make-shapes", "data/shapes_ade", "--layout", "ade"]],
    )
    yield (
        "Training UperNet on ConvNeXt-atto from random weights, about three minutes on two CPU cores",
        [["train", f"demo/{_SEGMENTER}", "--resume"]],
    )
    yield from _use(_SEGMENTER, "data/shapes_ade/images/validation", pictures)


def _use(name: str, images: str, pictures: str) -> Steps:
    """Test a trained model, and draw what it finds in some images of a folder."""
    yield "Testing on held-out images", [["test", f"demo/{name}", _checkpoint(name)]]
    shown = sorted(map(str, Path(images).glob("*.jpg")))[:_PICTURES]
    options = ["--out-dir", pictures, "--score-thr", "0.5"]
    yield "Pictures of predictions", [["infer", f"demo/{name}", _checkpoint(name), *shown, *options]]


def _checkpoint(name: str) -> str:
    return Path("work_dirs", name, "last_checkpoint").read_text(encoding="utf-8").strip()


def _start(command: Sequence[str]) -> None:
    """Run a command in a process of its own, and end with its exit code if it fails.

    A signal goes on to it, which may have something to save; Ctrl-C reaches it by itself.
    """
    # A second thread makes these small steps a fifth faster on idle cores, and several times slower on busy ones.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    child = subprocess.Popen([sys.executable, "-m", "convnext_dense", *command], env=environment)

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
