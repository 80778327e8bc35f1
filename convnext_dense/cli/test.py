"""Evaluate a checkpoint: convnext-dense test CONFIG CHECKPOINT."""

import argparse

from convnext_dense.cli.command_line import add_model_arguments, add_run_arguments, data_folder, set_local_rank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    add_model_arguments(parser)
    parser.add_argument("--tta", action="store_true", help="test-time augmentation, if the config has it")
    parser.add_argument("--show-dir", metavar="D", help="draw predictions beside the ground truth")
    parser.add_argument(
        "--out", metavar="F", help="write predictions: NAME.json in COCO's result format, or a folder for label images"
    )
    add_run_arguments(parser)
    parser.add_argument("--split", choices=["val", "test", "train"], help="split of --data to test on (default: val)")


def run(args: argparse.Namespace) -> None:
    """Test."""
    from convnext_dense.engine import evaluate_model

    set_local_rank(args.local_rank)
    evaluate_model(
        args.config,
        args.checkpoint,
        args.cfg_options,
        data=data_folder(args),
        split=args.split,
        channels=args.channels,
        bands=args.bands,
        work_dir=args.work_dir,
        tta=args.tta,
        show_dir=args.show_dir,
        out=args.out,
        launcher=args.launcher,
        log=args.log,
    )
