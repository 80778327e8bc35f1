"""Write a config of mmdet or mmseg with ConvNeXt in it, and print the differences.

convnext-dense plug mmdet::retinanet/retinanet_r50_fpn_1x_coco OUT.py
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument(
        "config", metavar="CONFIG", help="file, or mmdet::NAME or mmseg::NAME for a config that they ship"
    )
    parser.add_argument("out", metavar="OUT.py", help="self-contained file to write")
    parser.add_argument("--arch", default="tiny", help="variant of ConvNeXt (default: tiny)")
    parser.add_argument("--weights", metavar="SRC", help="file, address or zoo:NAME of the backbone's weights")
    parser.add_argument("--layer-decay", type=float, metavar="RATE", help="train with AdamW and this layer decay")


def run(args: argparse.Namespace) -> None:
    """Write the config, and print the differences."""
    from convnext_dense.config.reading import read_config
    from convnext_dense.plug import diff_configs, plug_backbone

    before = read_config(args.config, change=lambda cfg: cfg)
    after = plug_backbone(before, args.arch, args.weights, layer_decay=args.layer_decay)
    after.dump(args.out)
    print(diff_configs(before, after))
