"""Train a model: python tools/train.py CONFIG.

CONFIG is a file, or a config that mmdet or mmseg ships, such as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py.
--backbone replaces its backbone by ConvNeXt.
"""

import argparse
from collections.abc import Callable

from mmengine.config import Config

from convnext_dense.cli.command_line import (
    add_road_arguments,
    add_run_arguments,
    change_step,
    data_folder,
    set_local_rank,
)
from convnext_dense.engine import train_model
from convnext_dense.plug import diff_configs, parse_backbone, plug_backbone


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="path of the config")
    parser.add_argument("--backbone", metavar="NAME", help="convnext-ARCH or convnextv2-ARCH, such as convnext-tiny")
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
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the actual batch size")
    add_road_arguments(parser)
    add_run_arguments(parser)
    args = parser.parse_args()
    if args.backbone_weights and not args.backbone:
        parser.error("--backbone-weights needs --backbone")
    if args.backbone and (args.step or args.regime):
        parser.error("--step and --regime change the config's own backbone, which --backbone replaces: leave one out")
    set_local_rank(args.local_rank)
    change = _plug(args.backbone, args.backbone_weights) if args.backbone else change_step(args)
    train_model(
        args.config,
        args.cfg_options,
        change=change,
        data=data_folder(args),
        channels=args.channels,
        bands=args.bands,
        work_dir=args.work_dir,
        init_from=args.init_from,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        launcher=args.launcher,
    )


def _plug(backbone: str, weights: str | None) -> Callable[[Config], Config]:
    arch, kwargs = parse_backbone(backbone)

    def change(cfg: Config) -> Config:
        plugged = plug_backbone(cfg, arch, weights, **kwargs)
        print(diff_configs(cfg, plugged))
        return plugged

    return change
