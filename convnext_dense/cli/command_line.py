"""What the command-line tools share: arguments, and errors that end in one sentence."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from mmengine.dist import is_distributed

import convnext_dense
from convnext_dense.engine.signals import EXIT_CODES

_PACKAGE = str(Path(convnext_dense.__file__).parent)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that train and test have in common, by the names that mmdet's and mmseg's users know."""
    add_data_arguments(parser)
    parser.add_argument("--work-dir", metavar="D", help="where logs and checkpoints go (default: work_dirs/CONFIG)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none", help="how processes start")
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which data a config reads."""
    parser.add_argument("--data", metavar="DIR", help="folder of your own data that replaces the config's")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="class names of --data by label, for segmentation")
    add_options_argument(parser)


def add_options_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that overrides values of a config."""
    from mmengine.config import DictAction

    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="K=V",
        help="override values of the config by dotted key; +K=V adds a key that is not there",
    )


def run_command(function: Callable[[], object]) -> None:
    """Runs a tool. An error that this package raised for its user is printed as one sentence, any other as it is.

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
    except (ValueError, NotImplementedError) as error:
        message = _own_message(error)
        if message is None:
            raise
        print(f"Error: {message}", file=sys.stderr)
        sys.exit(1)


def set_local_rank(local_rank: int) -> None:
    """Tells mmengine this process's place on its node where the launcher gave it as an argument."""
    os.environ.setdefault("LOCAL_RANK", str(local_rank))


def _own_message(error: BaseException | None) -> str | None:
    """Finds the first error, under those that mmengine wraps around it, that was raised by this package."""
    own = None
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ValueError | NotImplementedError) and frames and frames[-1].filename.startswith(_PACKAGE):
            own = str(error)
        error = error.__cause__ or error.__context__
    return own
