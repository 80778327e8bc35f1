"""Measure speed and memory on this machine, beside the peers that are installed.

python -m benchmarks --arch tiny --task backbone --size 2 512 512
"""

import argparse
import json
from pathlib import Path

from benchmarks.run import KINDS, MODES, PRECISIONS, TASKS, run_task, summarise
from convnext_dense.cli.command_line import run_command


def main() -> None:
    """Read the arguments, measure, print a table and, with ``--json``, append the result to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="backbone", help="what to measure (default: %(default)s)")
    parser.add_argument("--arch", default="tiny", help="size of the backbone (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=3, default=(2, 512, 512), metavar=("N", "H", "W"), help="size of the batch"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="default: %(default)s")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=["forward", "training"], help="for block and backbone"
    )
    parser.add_argument("--peers", nargs="*", help="default: all that are installed")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["eager"], help="for block and backbone")
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each (default: %(default)s)")
    parser.add_argument("--warmups", type=int, default=3, help="calls before measuring (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file with a list of results, to which this one is appended")
    args = parser.parse_args()
    result = run_task(**{name: value for name, value in vars(args).items() if name != "json"})
    print(summarise(result))
    if args.json:
        results = json.loads(args.json.read_text()) if args.json.exists() else []
        args.json.write_text(json.dumps([*results, result], indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
