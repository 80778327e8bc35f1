"""Train a model: python tools/train.py CONFIG.

CONFIG is a file, or a config that mmdet or mmseg ships, such as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py.
--backbone replaces its backbone by ConvNeXt.
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from convnext_dense.cli.command_line import (
    add_road_arguments,
    add_run_arguments,
    change_step,
    data_folder,
    set_local_rank,
)

if TYPE_CHECKING:
    from mmengine.config import Config


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
    from convnext_dense.config.finetuning import Choices
    from convnext_dense.engine import train_model

    set_local_rank(args.local_rank)
    change = _plug(args.backbone, args.backbone_weights) if args.backbone else change_step(args)
    train_model(
        args.config,
        args.cfg_options,
        change=change,
        data=data_folder(args),
        channels=args.channels,
        bands=args.bands,
        choices=Choices(args.epochs, args.batch, args.early_stop, args.freeze, args.augment),
        work_dir=args.work_dir,
        init_from=args.init_from,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        launcher=args.launcher,
        log=args.log,
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


def _plug(backbone: str, weights: str | None) -> "Callable[[Config], Config]":
    from convnext_dense.plug import default_weights, diff_configs, has_weights, parse_backbone, plug_backbone

    arch, kwargs = parse_backbone(backbone)

    def change(cfg: "Config") -> "Config":
        needs_weights = weights is None and "finetune" in cfg and has_weights(cfg.model)
        plugged = plug_backbone(cfg, arch, default_weights(backbone) if needs_weights else weights, **kwargs)
        print(diff_configs(cfg, plugged))
        return plugged

    return change
