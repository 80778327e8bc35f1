"""Train, test and use a small model on drawn shapes, in the current folder.

It takes about eight minutes on two CPU cores. Without a GPU, two processes
train, each on half of a batch. What is done already is not done again; an
interrupted training goes on where it was.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from convnext_dense.errors import UserError
from convnext_dense.signals import EXIT_CODES

_PICTURES = 12
_CLASSIFIER = "pretrain_convnext_atto_shapes"
_DETECTOR = "mask_rcnn_convnext_atto_shapes_pretrained"
_SEGMENTER = "upernet_convnext_atto_shapes"
_PROCESSES = 2
# Images per step that the configs have, and that the processes share; known here, as reading a config takes seconds.
_BATCHES = {_CLASSIFIER: 32, _DETECTOR: 4, _SEGMENTER: 8}
_POLL_S = 0.1
# `python -m` would import from the current folder first: files of the user, or a folder named as this package.
_MAIN = "import sys; sys.path = [path for path in sys.path if path]; from convnext_dense.cli.main import main; main()"


# A title, and commands that run side by side; a step is asked for when those before it are done.
Step = tuple[str, Sequence[Sequence[str]]]
Steps = Iterator[Step]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument(
        "--segmentation",
        action="store_true",
        help="UperNet on label images, about five minutes, instead of a detector",
    )


def run(args: argparse.Namespace) -> None:
    """Do one step after the other."""
    if args.segmentation:
        steps, total, name, pictures = _segmentation, 3, _SEGMENTER, "outputs/demo-segmentation"
    else:
        steps, total, name, pictures = _detection, 5, _DETECTOR, "outputs/demo"
    for number, (title, commands) in enumerate(steps(pictures), start=1):
        print(f"== {number}/{total} {title}", flush=True)
        _start(commands)
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
    shown = [
        str(images[0]) for folder in sorted(Path("data/shapes_crops/val").glob("*/")) if (images := _images(folder))
    ]
    use = [f"demo/{_CLASSIFIER}", _checkpoint(_CLASSIFIER)]
    yield (
        "First pictures of predictions, and top-1 accuracy on held-out crops",
        [["infer", *use, *shown, "--out-dir", f"{pictures}-classifier"], ["test", *use]],
    )
    yield (
        "Training Mask R-CNN on the pre-trained backbone, about five minutes",
        # not evaluated at its end: that is the last step
        [["train", f"demo/{_DETECTOR}", "--resume", "--cfg-options", "+train_cfg.val_begin=99"]],
    )
    yield _use(_DETECTOR, "data/shapes/val2017", pictures)


def _segmentation(pictures: str) -> Steps:
    yield (
        "Data: drawing images with labels into data/shapes_ade",
        [["make-shapes", "data/shapes_ade", "--layout", "ade"]],
    )
    yield (
        "Training UperNet on ConvNeXt-atto from random weights, about three minutes on two CPU cores",
        [["train", f"demo/{_SEGMENTER}", "--resume"]],
    )
    yield _use(_SEGMENTER, "data/shapes_ade/images/validation", pictures)


def _use(name: str, images: str, pictures: str) -> Step:
    """Draw what a trained model finds in some images of a folder, and test it."""
    use = [f"demo/{name}", _checkpoint(name)]
    shown = list(map(str, _images(Path(images))[:_PICTURES]))
    return (
        "Pictures of predictions, and a test on held-out images",
        [["infer", *use, *shown, "--out-dir", pictures, "--score-thr", "0.5"], ["test", *use]],
    )


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))


def _checkpoint(name: str) -> str:
    return Path("work_dirs", name, "last_checkpoint").read_text(encoding="utf-8").strip()


def _start(commands: Sequence[Sequence[str]]) -> None:
    """Run commands side by side, each in a process of its own, and end with the exit code of the first that fails.

    The first one speaks at once, the others when all are done.
    """
    held: list[BinaryIO] = []
    children: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files:
        try:
            for command in commands:
                output = files.enter_context(tempfile.TemporaryFile()) if children else None
                held += [output] if output else []
                children += [_open(*process, output) for process in _processes(command)]
            _wait(children)
        finally:
            for file in held:
                file.seek(0)
                print(file.read().decode(errors="replace"), end="", flush=True)


def _processes(command: Sequence[str]) -> list[tuple[Sequence[str], dict[str, str]]]:
    """Return the command and the environment of each of its processes: one, or two of a training."""
    # A second thread makes these small steps a fifth faster on idle cores, and several times slower on busy ones.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if command[0] != "train" or _num_processes() == 1:
        return [(command, environment)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(_PROCESSES))
    batch = _BATCHES[command[1].removeprefix("demo/")] // _PROCESSES
    command = [*command, "--launcher", "pytorch", "--batch", str(batch)]
    ranks = [str(rank) for rank in range(_PROCESSES)]
    return [(command, {**environment, "RANK": rank, "LOCAL_RANK": rank}) for rank in ranks]


def _num_processes() -> int:
    """Return how many processes train: one on a GPU."""
    import torch  # which takes a second

    if torch.cuda.is_available() or torch.backends.mps.is_available() or not torch.distributed.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_PROCESSES, cores)


def _open(command: Sequence[str], environment: Mapping[str, str], output: BinaryIO | None) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", _MAIN, *command]
    return subprocess.Popen(arguments, env=environment, stdout=output, stderr=output)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for processes, and end with the exit code of the first that fails; the others are told to end as well.

    A signal goes on to them, which may have something to save. Ctrl-C reaches them twice, which counts as once.

    Raises:
        UserError: A process was killed.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    passed = [number for number in (*EXIT_CODES, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, pass_on) for number in passed}
    try:
        code = _first_failure(children)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if code < 0:
        why = "; the memory may be too small" if code == -signal.SIGKILL else ""
        raise UserError(f"A process of this step was ended by {signal.Signals(-code).name}{why}. Start the demo again.")
    if code in EXIT_CODES.values():
        print("== Stopped. Start the demo again to go on.")
    if code != 0:
        sys.exit(code)


def _first_failure(children: Sequence[subprocess.Popen[bytes]]) -> int:
    failure = 0
    running = list(children)
    while running:
        for child in [child for child in running if child.poll() is not None]:
            running.remove(child)
            if child.returncode and not failure:
                failure = child.returncode
                for other in running:
                    other.terminate()
        time.sleep(_POLL_S)
    return failure
