"""Convert a ConvNeXt checkpoint to another layout, or probe one.

convnext-dense convert IN OUT --to timm
convnext-dense convert IN --probe
"""

import argparse

LAYOUTS = (
    "official",
    "timm",
    "torchvision",
    "huggingface",
    "mmpretrain",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("source", metavar="IN", help="path, http(s):// address, zoo:NAME, timm:NAME or hf:OWNER/NAME")
    parser.add_argument("out", metavar="OUT", nargs="?", help="file to write: .safetensors, .pth or .pt")
    parser.add_argument("--to", choices=LAYOUTS, metavar="NAME", help=f"layout of OUT: {', '.join(LAYOUTS)}")
    parser.add_argument(
        "--part",
        choices=["all", "backbone"],
        default="all",
        help="backbone leaves out classifiers, necks and heads (default: all)",
    )
    parser.add_argument(
        "--probe", action="store_true", help="run one image and compare its activations with those of random weights"
    )


def run(args: argparse.Namespace) -> None:
    """Convert or probe."""
    from convnext_dense.checkpoints import convert_checkpoint
    from convnext_dense.models.probe import probe_checkpoint

    if args.probe:
        if args.out or args.to:
            args.fail("--probe writes nothing: leave out OUT and --to")
        print(probe_checkpoint(args.source))
    elif args.out is None or args.to is None:
        args.fail("give OUT and --to LAYOUT, or --probe")
    else:
        print(convert_checkpoint(args.source, args.out, to=args.to, part=args.part))
