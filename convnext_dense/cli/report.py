"""Write what a model gets right or wrong: convnext-dense report CONFIG CHECKPOINT.

Or how a training went, with its work dir alone: convnext-dense report WORK_DIR
Or compare runs: convnext-dense report --compare RUN1 RUN2 ...
"""

import argparse
from pathlib import Path
from typing import Any

from convnext_dense.cli.command_line import (
    add_device_argument,
    add_folder_arguments,
    add_options_argument,
    data_folder,
)
from convnext_dense.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG|WORK_DIR", help="path or name of the config, or the work dir of a training"
    )
    parser.add_argument("checkpoint", nargs="?", help="path, address or zoo:NAME of the weights")
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="RUN",
        help="work dirs or reports of models for the same task, the first of which the others are compared with",
    )
    parser.add_argument(
        "--out-dir", help="folder of the report (default: work_dirs/NAME/report, or work_dirs/comparison)"
    )
    add_device_argument(parser)
    parser.add_argument("--batch-size", type=int, default=1, help="images per forward pass (default: 1)")
    add_folder_arguments(parser)
    add_options_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    if (args.config is None) == (args.compare is None):
        args.fail("give CONFIG and CHECKPOINT, a WORK_DIR, or --compare and two runs or more")
    if args.config and args.checkpoint is None:
        if args.data or args.out_dir or args.device or args.cfg_options:
            args.fail(
                "a WORK_DIR alone says how the training went: the other arguments are for a CONFIG and CHECKPOINT"
            )
        _report_run(Path(args.config))
        return
    from convnext_dense.reports.reporting import compare_reports, report_on

    arguments: dict[str, Any] = dict(
        data=data_folder(args), options=args.cfg_options, device=args.device, batch_size=args.batch_size
    )
    if args.compare:
        report = compare_reports(args.compare, args.out_dir or Path("work_dirs", "comparison"), **arguments)
    else:
        out_dir = args.out_dir or Path("work_dirs", Path(args.config).stem, "report")
        report = report_on(args.config, args.checkpoint, out_dir, **arguments)
    predictions = f", the predictions in {report.predictions}" if report.predictions else ""
    print(f"The numbers are in {report.numbers}{predictions}")
    print(report.page)


def _report_run(work_dir: Path) -> None:
    from convnext_dense.reports.run_page import report_run

    if not work_dir.is_dir():
        raise UserError(f"{work_dir} is no work dir of a training; to report on a model, give its CHECKPOINT too.")
    run = report_run(work_dir)
    print(f"{run.curves}{f'. {run.hint}' if run.hint else ''}")
    if run.page:
        print(run.page)
