"""Arguments that the command-line tools share, and the handling of errors and signals."""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from mmengine.config import Config, DictAction
from mmengine.dist import is_distributed

from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.formats import FORMAT_NAMES
from convnext_dense.engine.signals import EXIT_CODES
from convnext_dense.engine.trackers import TRACKER_NAMES
from convnext_dense.errors import UserError
from convnext_dense.plug import take_step


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a trained model."""
    parser.add_argument("config", help="path of the config")
    parser.add_argument("checkpoint", help="path, address or zoo:NAME of the weights")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that chooses where a loaded model runs."""
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: the accelerator if there is one)")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that train and test share, with the names that they have in mmdet and mmseg."""
    add_data_arguments(parser)
    parser.add_argument("--work-dir", metavar="D", help="folder for logs and checkpoints (default: work_dirs/CONFIG)")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm"], default="none", help="how processes are started"
    )
    parser.add_argument(
        "--log",
        nargs="+",
        choices=TRACKER_NAMES,
        default=[],
        metavar="NAME",
        help=f"experiment trackers that get the run too: {', '.join(TRACKER_NAMES)}",
    )
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose the data of a config, and the channels of its images."""
    add_folder_arguments(parser)
    parser.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="channels of images that are not RGB: TIFF, .npy, 8 or 16 bits, floats",
    )
    parser.add_argument(
        "--bands",
        nargs="+",
        type=int,
        metavar="B",
        help="channels that pictures show as red, green, blue, counted from 1 (default: the first three)",
    )
    add_options_argument(parser)


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``data_folder``."""
    parser.add_argument("--data", metavar="DIR", help="folder of your own data, instead of the config's")
    parser.add_argument("--data-format", choices=FORMAT_NAMES, help="format of --data (default: recognised)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="class names of --data by label")
    parser.add_argument(
        "--ignore-labels",
        nargs="+",
        metavar="L",
        help="classes of --data not to learn: names, or values in label images",
    )
    parser.add_argument("--val-share", type=float, metavar="S", help="hold out this share of --data, which has no val")
    parser.add_argument("--val-seed", type=int, metavar="N", help="seed of what --val-share holds out (default: 0)")
    parser.add_argument("--colors", metavar="FILE", help="table of the classes and colours of label images")
    parser.add_argument(
        "--overlaps",
        choices=["later", "smaller"],
        help="object on top in label images that are painted (default: later)",
    )


def data_folder(args: argparse.Namespace) -> DataFolder | None:
    """Return the folder of ``--data`` with the arguments that say how it is read; None without one.

    Raises:
        UserError: There is such an argument, but no ``--data``.
    """
    given = dict(
        format=args.data_format,
        classes=args.classes,
        ignored_labels=args.ignore_labels,
        val_share=args.val_share,
        seed=args.val_seed,
        colors=args.colors,
        overlaps=args.overlaps,
    )
    given = {name: value for name, value in given.items() if value is not None}
    if args.data is not None:
        return DataFolder(args.data, **given)
    if given:
        options = {"format": "data-format", "ignored_labels": "ignore-labels", "seed": "val-seed"}
        name = next(iter(given))
        option = options.get(name, name.replace("_", "-"))
        raise UserError(f"--{option} says how a folder is read that is given with --data DIR.")
    return None


def add_options_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that overrides values of a config."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="K=V",
        help="override values of the config by dotted key; +K=V adds a new key",
    )


def add_road_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a step of the roadmap from ResNet to ConvNeXt."""
    parser.add_argument("--step", metavar="STEP", help="step of a roadmap config, such as kernel_7")
    parser.add_argument("--regime", metavar="REGIME", help="start of the roadmap: resnet50 or resnet200")


def change_step(args: argparse.Namespace) -> Callable[[Config], Config] | None:
    """Return the function that applies the roadmap arguments to a config; None without them."""
    return take_step(args.step, args.regime) if args.step or args.regime else None


def run_command(function: Callable[[], object]) -> None:
    """Run a command and print a ``UserError`` as one sentence; any other error keeps its traceback.

    The exit code is 1 after an error, and that of ``EXIT_CODES`` after a signal.
    """
    try:
        function()
    except SystemExit as leaving:
        # Launchers end all processes as soon as one has exited, and a signal can arrive more than once.
        if is_distributed() or leaving.code in EXIT_CODES.values():
            for number in EXIT_CODES:
                signal.signal(number, signal.SIG_IGN)
        raise
    except KeyboardInterrupt:
        sys.exit(EXIT_CODES[signal.SIGINT])
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def set_local_rank(local_rank: int) -> None:
    """Set ``LOCAL_RANK`` for mmengine from the argument of a launcher that does not set it."""
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
