"""Write what a trained model gets right and wrong: python tools/report.py CONFIG CHECKPOINT.

With the work dir of a training alone, python tools/report.py WORK_DIR, write how it went: curves.png and report.html
"""

import argparse
from pathlib import Path

from convnext_dense.cli.command_line import (
    add_device_argument,
    add_folder_arguments,
    add_options_argument,
    data_folder,
)
from convnext_dense.engine.signals import leaving_on_signals
from convnext_dense.errors import UserError
from convnext_dense.reports.reporting import report_on
from convnext_dense.reports.run_page import report_run


@leaving_on_signals()
def main() -> None:
    """Read the arguments, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG|WORK_DIR", help="path of the config, or the work dir of a training")
    parser.add_argument("checkpoint", nargs="?", help="path, address or zoo:NAME of the weights")
    parser.add_argument("--out-dir", help="folder of the report (default: work_dirs/NAME/report)")
    add_device_argument(parser)
    parser.add_argument("--batch-size", type=int, default=1, help="images per forward pass (default: 1)")
    add_folder_arguments(parser)
    add_options_argument(parser)
    args = parser.parse_args()
    if args.checkpoint is None:
        _report_run(Path(args.config))
        return
    report = report_on(
        args.config,
        args.checkpoint,
        args.out_dir or Path("work_dirs", Path(args.config).stem, "report"),
        data=data_folder(args),
        options=args.cfg_options,
        device=args.device,
        batch_size=args.batch_size,
    )
    print(f"The numbers are in {report.numbers}, the predictions in {report.predictions}")
    print(report.page)


def _report_run(work_dir: Path) -> None:
    if not work_dir.is_dir():
        raise UserError(f"{work_dir} is no work dir of a training; to report on a model, give its CHECKPOINT too.")
    run = report_run(work_dir)
    print(f"{run.curves}{f'. {run.hint}' if run.hint else ''}")
    if run.page:
        print(run.page)
