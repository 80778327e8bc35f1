"""Arguments that the commands share, and the handling of errors and signals.

This module, and all that the commands import before they have read their arguments, imports neither torch nor
OpenMMLab: ``--help`` answers at once.
"""

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from convnext_dense.errors import UserError
from convnext_dense.signals import EXIT_CODES
from convnext_dense.terminal import end_display

if TYPE_CHECKING:
    from mmengine.config import Config

    from convnext_dense.data.data_folder import DataFolder

# What heavier modules know, for choices; a test holds them against those.
FORMAT_NAMES = (
    "cityscapes",
    "class-lists",
    "coco",
    "cvat",
    "labelme",
    "labels",
    "via",
    "voc",
    "voc-segmentation",
    "yolo",
)

TRACKER_NAMES = ("tensorboard", "wandb", "mlflow", "clearml", "neptune", "dvclive", "aim")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the description as it is, and names such as ``class-lists`` whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


def parser_of(
    command: ModuleType, make: Callable[..., argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """Return the parser of a command's module; ``args.fail`` of what it parses ends with the usage and a sentence.

    Args:
        command: The module.
        make: Makes a parser from argparse's arguments, such as ``add_parser`` of subparsers.
    """
    parser = make(description=command.__doc__, formatter_class=_Formatter)
    command.add_arguments(parser)
    parser.set_defaults(fail=parser.error)
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a trained model."""
    parser.add_argument("config", help="path or name of the config")
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
    formats = f"format of --data (default: recognised): {', '.join(FORMAT_NAMES)}"
    parser.add_argument("--data-format", choices=FORMAT_NAMES, metavar="NAME", help=formats)
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


def data_folder(args: argparse.Namespace) -> "DataFolder | None":
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
        from convnext_dense.data.data_folder import DataFolder

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
        action=OptionsAction,
        metavar="K=V",
        help="override values of the config by dotted key; +K=V adds a new key",
    )


class OptionsAction(argparse.Action):
    """mmengine's ``DictAction``, which is imported when it is used."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store ``K=V ...`` as a dict."""
        from mmengine.config import DictAction

        DictAction(self.option_strings, self.dest, nargs="+")(parser, namespace, values, option_string)


def add_road_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a step of the roadmap from ResNet to ConvNeXt."""
    parser.add_argument("--step", metavar="STEP", help="step of a roadmap config, such as kernel_7")
    parser.add_argument("--regime", metavar="REGIME", help="start of the roadmap: resnet50 or resnet200")


def change_step(args: argparse.Namespace) -> "Callable[[Config], Config] | None":
    """Return the function that applies the roadmap arguments to a config; None without them."""
    if not args.step and not args.regime:
        return None
    from convnext_dense.plug import take_step

    return take_step(args.step, args.regime)


def run_command(function: Callable[[], object]) -> None:
    """Run a command and print a ``UserError`` as one sentence; any other error keeps its traceback.

    The exit code is 1 after an error, and that of ``EXIT_CODES`` after a signal.
    """
    try:
        function()
    except SystemExit as leaving:
        # Launchers end all processes as soon as one has exited, and a signal can arrive more than once.
        if _is_distributed() or leaving.code in EXIT_CODES.values():
            for number in EXIT_CODES:
                signal.signal(number, signal.SIG_IGN)
        raise
    except KeyboardInterrupt:
        sys.exit(EXIT_CODES[signal.SIGINT])
    except UserError as error:
        end_display()
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        end_display()


def _is_distributed() -> bool:
    if "torch.distributed" not in sys.modules:
        return False
    from mmengine.dist import is_distributed

    return is_distributed()


def set_local_rank(local_rank: int) -> None:
    """Set ``LOCAL_RANK`` for mmengine from the argument of a launcher that does not set it."""
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
