"""Describe the cost of a config's model and its training, or print a table of the papers beside computed values.

python tools/describe.py configs/detection/mask_rcnn_convnext_t_3x.py
python tools/describe.py --table archs
"""

import argparse
from pathlib import Path

from convnext_dense.cli.command_line import add_options_argument, add_road_arguments, change_step
from convnext_dense.description import TABLES, build_table, describe_config

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="config file")
    parser.add_argument("--table", choices=list(TABLES), help="table of published and computed values")
    parser.add_argument(
        "--image-size", nargs=2, type=int, metavar=("H", "W"), help="image to count MACs on (default: the paper's)"
    )
    add_road_arguments(parser)
    add_options_argument(parser)
    args = parser.parse_args()
    if (args.config is None) == (args.table is None):
        parser.error("give a CONFIG or --table, but not both")
    if args.table:
        print(build_table(args.table, ROOT))
    else:
        size = tuple(args.image_size) if args.image_size else None
        print(describe_config(args.config, ROOT, options=args.cfg_options, change=change_step(args), image_size=size))
