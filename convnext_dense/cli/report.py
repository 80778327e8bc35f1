"""Write what a trained model gets right and wrong: python tools/report.py CONFIG CHECKPOINT."""

import argparse
from pathlib import Path

from convnext_dense.cli.command_line import (
    add_device_argument,
    add_folder_arguments,
    add_model_arguments,
    add_options_argument,
    data_folder,
)
from convnext_dense.engine.signals import leaving_on_signals
from convnext_dense.reports.reporting import report_on


@leaving_on_signals()
def main() -> None:
    """Read the arguments, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--out-dir", help="folder of the report (default: work_dirs/NAME/report)")
    add_device_argument(parser)
    parser.add_argument("--batch-size", type=int, default=1, help="images per forward pass (default: 1)")
    add_folder_arguments(parser)
    add_options_argument(parser)
    args = parser.parse_args()
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
