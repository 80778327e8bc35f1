"""convnext-dense COMMAND: everything that this package does, by name."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from convnext_dense.cli.command_line import parser_of, run_command
from convnext_dense.signals import leaving_on_signals

# Command -> what it does; the module of the same name has its arguments.
COMMANDS = {
    "train": "train a model",
    "test": "evaluate a checkpoint",
    "infer": "predict on images and videos, and draw the results",
    "report": "write what a model gets right and wrong, or compare runs",
    "export": "write a model that runs without PyTorch",
    "serve": "a model on a web page and over HTTP",
    "check-dataset": "look at data before a run (check)",
    "describe": "what a config's model and training cost",
    "benchmark": "where the time of a training and a test goes",
    "plug": "write a config of mmdet or mmseg with ConvNeXt in it",
    "zoo": "list, show, fetch or verify public weights",
    "convert-checkpoint": "convert a checkpoint to another layout (convert)",
    "make-shapes": "draw the data of the demos",
    "demo": "train, test and use a small model on drawn data",
    "completion": "print the completion of a shell",
}
OTHER_NAMES = {"check": "check-dataset", "convert": "convert-checkpoint"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; by default those of this process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from convnext_dense import __version__

        print(__version__)
        return
    name = OTHER_NAMES.get(arguments[0], arguments[0])
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, [*COMMANDS, *OTHER_NAMES], n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else " convnext-dense --help lists all."
        print(f"Error: there is no command '{name}'.{hint}", file=sys.stderr)
        sys.exit(2)
    run(name, arguments[1:], prog=f"convnext-dense {name}")


def run(name: str, arguments: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Run a command.

    Args:
        name: One of ``COMMANDS``.
        arguments: By default those of this process.
        prog: What the help calls the command.
    """
    with leaving_on_signals():  # what a command imports takes seconds
        command = module_of(name)
        args = parser_of(command, partial(argparse.ArgumentParser, prog=prog)).parse_args(arguments)
        run_command(lambda: command.run(args))


def module_of(name: str) -> ModuleType:
    """Import the module of a command."""
    return importlib.import_module(f"convnext_dense.cli.{name.replace('-', '_')}")


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: convnext-dense COMMAND ...",
            "",
            *lines,
            "",
            "convnext-dense COMMAND --help says more. For example, on images with labels (COCO, YOLO, VOC, ...):",
            "",
            "  convnext-dense train finetune/mask_rcnn --data DIR",
            "  convnext-dense infer finetune/mask_rcnn work_dirs/mask_rcnn/iter_900.pth IMAGES",
        ]
    )
