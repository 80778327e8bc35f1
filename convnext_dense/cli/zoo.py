"""Public weights by name: list, show or fetch them, or verify published numbers.

convnext-dense zoo list --task detection
convnext-dense zoo fetch cascade_convnext_t_3x
convnext-dense zoo verify cascade_convnext_t_3x upernet_convnext_t_160k
"""

import argparse

from convnext_dense.cli.command_line import add_options_argument

TASKS = ("detection", "segmentation", "classification", "backbone")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="print a table of all names")
    listing.add_argument("--task", choices=TASKS, help="only the weights for this task")
    for name, text in (("show", "print all that is known of NAME"), ("fetch", "download NAME and print what is in it")):
        commands.add_parser(name, help=text).add_argument("name", metavar="NAME")
    verify = commands.add_parser("verify", help="evaluate NAME ... on COCO, ADE20K or ImageNet")
    verify.add_argument("names", metavar="NAME", nargs="+")
    verify.add_argument("--data", metavar="DIR", help="folder of the data set, instead of the config's")
    verify.add_argument("--tta", action="store_true", help="test-time augmentation, if the config has it")
    verify.add_argument("--work-dir", metavar="D", default="work_dirs/zoo", help="folder for logs (%(default)s)")
    add_options_argument(verify)


def run(args: argparse.Namespace) -> None:
    """Run one of the commands."""
    from convnext_dense.checkpoints import find_entry, read_zoo
    from convnext_dense.cli.zoo_entries import fetch_entry, show_entry, verify_entries
    from convnext_dense.description.zoo_table import list_zoo

    if args.command == "list":
        print(list_zoo(entry for entry in read_zoo().values() if args.task in (None, entry.task)))
    elif args.command == "show":
        print(show_entry(find_entry(args.name)))
    elif args.command == "fetch":
        print(fetch_entry(find_entry(args.name)))
    else:
        print(verify_entries(args.names, args.cfg_options, data=args.data, work_dir=args.work_dir, tta=args.tta))
