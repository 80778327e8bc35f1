"""Check the data that a config reads: convnext-dense check CONFIG [--data DIR].

Prints a table of findings, draws a sheet of images with their ground truth, and
feeds the ground truth through the config's evaluation, which must give an AP,
mIoU or accuracy of 1. The exit code is 1 if there is an error.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from convnext_dense.cli.command_line import add_data_arguments, data_folder
from convnext_dense.terminal import track

if TYPE_CHECKING:
    from mmengine.config import Config

NUM_OPENED = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("config", help="path or name of the config")
    add_data_arguments(parser)
    parser.add_argument(
        "--all-images", action="store_true", help=f"open all images (default: {NUM_OPENED} per data set)"
    )
    parser.add_argument(
        "--overlay", type=Path, metavar="PNG", help="sheet to draw (default: work_dirs/CONFIG/overlay.png)"
    )


def run(args: argparse.Namespace) -> None:
    """Check, print, and exit with code 1 if there is an error in the data."""
    from convnext_dense.config.reading import read_config
    from convnext_dense.data.data_report import LOADERS, report_data
    from convnext_dense.data.own.tasks import use_whole_folder
    from convnext_dense.engine.preparing import measured_bands

    data = data_folder(args)
    loaders = list(LOADERS)
    work_dir = Path("work_dirs", Path(args.config).stem)

    fit_images = measured_bands(args.channels, args.bands, args.cfg_options)

    def use_data(cfg: "Config") -> None:
        if data is not None:
            loaders[:] = use_whole_folder(cfg, data, work_dir=work_dir)
        if fit_images is not None:
            print("\n".join(fit_images(cfg, str(work_dir))))

    is_changed = data is not None or fit_images is not None
    cfg = read_config(args.config, args.cfg_options, use_data=use_data if is_changed else None)
    overlay = args.overlay or work_dir / "overlay.png"
    is_right, report = report_data(cfg, loaders, all_images=args.all_images, overlay=overlay, follow=track)
    print(report)
    sys.exit(0 if is_right else 1)
