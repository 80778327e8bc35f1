"""Describe what a config's model and training cost, or print tables of the papers.

convnext-dense describe detection/mask_rcnn_convnext_t_3x
convnext-dense describe --table archs
"""

import argparse

from convnext_dense.cli.command_line import add_options_argument, add_road_arguments, change_step

TABLE_NAMES = (
    "archs",
    "roadmap",
    "detection",
    "segmentation",
    "classification",
    "models",
    "peers",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="config file")
    tables = f"table of published and computed values: {', '.join(TABLE_NAMES)}"
    parser.add_argument("--table", choices=TABLE_NAMES, metavar="NAME", help=tables)
    parser.add_argument(
        "--image-size", nargs=2, type=int, metavar=("H", "W"), help="image to count MACs on (default: the paper's)"
    )
    add_road_arguments(parser)
    add_options_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Print what is asked for."""
    if (args.config is None) == (args.table is None):
        args.fail("give a CONFIG or --table, but not both")
    from convnext_dense.description import build_table, describe_config

    if args.table:
        print(build_table(args.table))
    else:
        size = tuple(args.image_size) if args.image_size else None
        arguments = dict(options=args.cfg_options, change=change_step(args), image_size=size)
        print(describe_config(args.config, **arguments))
