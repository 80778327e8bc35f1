"""Train a model: convnext-dense train CONFIG.

CONFIG is a file, the name of one of ours, or a config that mmdet or mmseg
ships, such as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py.
--backbone replaces its backbone by ConvNeXt.
"""

import argparse

from convnext_dense.cli.command_line import (
    add_road_arguments,
    add_run_arguments,
    change_step,
    data_folder,
    set_local_rank,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("config", help="path or name of the config")
    parser.add_argument("--backbone", metavar="NAME", help="convnext-ARCH, convnextv2-ARCH or dinov3-convnext-ARCH")
    parser.add_argument("--backbone-weights", metavar="SRC", help="file, address, zoo:NAME or timm:NAME of its weights")
    parser.add_argument(
        "--init-from",
        metavar="SRC",
        help="file, address or zoo:NAME of a trained model to start from, of any classes",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CKPT",
        help="resume from this checkpoint, or without a value from the newest in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, in bfloat16 if the device supports it")
    _add_choices(parser)
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the actual batch size")
    add_road_arguments(parser)
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train."""
    if args.backbone_weights and not args.backbone:
        args.fail("--backbone-weights needs --backbone")
    if args.backbone and (args.step or args.regime):
        args.fail("--step and --regime change the config's own backbone, which --backbone replaces: leave one out")
    from convnext_dense.commands import train

    set_local_rank(args.local_rank)
    road = change_step(args)
    train(
        args.config,
        data=data_folder(args),
        backbone=args.backbone,
        backbone_weights=args.backbone_weights,
        init_from=args.init_from,
        resume=args.resume,
        epochs=args.epochs,
        batch=args.batch,
        early_stop=args.early_stop,
        freeze=args.freeze,
        augment=args.augment,
        options=args.cfg_options,
        channels=args.channels,
        bands=args.bands,
        work_dir=args.work_dir,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        launcher=args.launcher,
        log=args.log,
        **({} if road is None else dict(change=road)),
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the training data; the schedule follows")
    parser.add_argument(
        "--batch",
        type=_batch,
        metavar="N|auto",
        help="images per process; auto takes what fits a GPU and accumulates to the batch of the recipe",
    )
    parser.add_argument(
        "--early-stop", type=int, metavar="N", help="end after N evaluations without a better one; 0 for never"
    )
    parser.add_argument("--freeze", type=int, metavar="N", help="keep the first N of the backbone's four stages fixed")
    parser.add_argument("--augment", metavar="NAME", help="augmentation of the config, such as light or strong")


def _batch(value: str) -> int | str:
    if value == "auto":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"'{value}' must be a number of images, or auto")
    return int(value)
