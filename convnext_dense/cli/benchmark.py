"""Measure where the time of a training and a test goes on this machine.

Nothing is kept. For example:

  convnext-dense benchmark finetune/mask_rcnn --data DIR
"""

import argparse

from convnext_dense.cli.command_line import add_folder_arguments, add_options_argument, data_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("config", metavar="CONFIG", help="path or name of the config")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help="weights (default: those of the config)")
    parser.add_argument("--iterations", type=int, default=20, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--batch", type=int, metavar="N", help="images per training iteration")
    parser.add_argument("--amp", action="store_true", help="train in mixed precision, if the device supports it")
    parser.add_argument("--out", metavar="F", help="write the figures as JSON too")
    add_folder_arguments(parser)
    add_options_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, and print a table."""
    from convnext_dense.engine.phases import describe_phases, measure_phases
    from convnext_dense.files import write_json

    phases = measure_phases(
        args.config,
        args.checkpoint,
        args.cfg_options,
        data=data_folder(args),
        batch=args.batch,
        amp=args.amp,
        iterations=args.iterations,
    )
    print(describe_phases(phases))
    if args.out:
        write_json(args.out, {name: part._asdict() for name, part in phases.items()})
