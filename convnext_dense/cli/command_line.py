"""What the command-line tools share: arguments, and errors that end in one sentence."""

import argparse
import os
import signal
import sys
from collections.abc import Callable

from mmengine.config import Config, DictAction
from mmengine.dist import is_distributed

from convnext_dense.engine.signals import EXIT_CODES
from convnext_dense.errors import UserError
from convnext_dense.plug import take_step


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that train and test have in common, by the names that mmdet's and mmseg's users know."""
    add_data_arguments(parser)
    parser.add_argument("--work-dir", metavar="D", help="where logs and checkpoints go (default: work_dirs/CONFIG)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="how processes start")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which data a config reads."""
    parser.add_argument("--data", metavar="DIR", help="folder of your own data that replaces the config's")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="class names of --data by label, for segmentation")
    add_options_argument(parser)


def add_options_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that overrides values of a config."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="K=V",
        help="override values of the config by dotted key; +K=V adds a key that is not there",
    )


def add_road_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a step of the road from ResNet to ConvNeXt."""
    parser.add_argument("--step", metavar="STEP", help="step of a roadmap config, such as kernel_7")
    parser.add_argument("--regime", metavar="REGIME", help="where the road begins: resnet50 or resnet200")


def change_step(args: argparse.Namespace) -> Callable[[Config], Config] | None:
    """Return the change of a config that the arguments of the road ask for."""
    return take_step(args.step, args.regime) if args.step or args.regime else None


def run_command(function: Callable[[], object]) -> None:
    """Run a command. A ``UserError`` is printed as one sentence, any other error as it is.

    The exit code is 1 after an error, and after a signal that of ``EXIT_CODES``.
    """
    try:
        function()
    except SystemExit as leaving:
        # Launchers end all processes as soon as the first one has left, and a signal may come more than once.
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
    """Tell mmengine this process's place on its node where the launcher gave it as an argument."""
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
