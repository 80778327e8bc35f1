"""Trains a model: python tools/train.py CONFIG"""

import argparse

from convnext_dense.engine import train_model
from convnext_dense.engine.command_line import add_run_arguments, run_command, set_local_rank


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of the config")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CKPT",
        help="go on from this checkpoint, or without a value from the newest in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, bfloat16 where the device has it")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the batch that runs")
    add_run_arguments(parser)
    args = parser.parse_args()
    set_local_rank(args.local_rank)
    train_model(
        args.config,
        args.cfg_options,
        data=args.data,
        classes=args.classes,
        work_dir=args.work_dir,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        launcher=args.launcher,
    )


if __name__ == "__main__":
    run_command(main)
