"""Draw the data of the demos: convnext-dense make-shapes data/shapes --preview 24."""

import argparse
import importlib
import logging

from convnext_dense.errors import UserError

# Layout -> the module that writes it, and its functions that write the data and draw a preview.
LAYOUTS = {
    "coco": ("coco", "write_coco", "draw_preview"),
    "ade": ("ade", "write_ade", "draw_ade_preview"),
    "crops": ("crops", "write_crops", "draw_crops_preview"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("out", help="folder to fill")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="coco",
        help="coco: boxes and masks for detectors; ade: label images for segmenters; crops: single shapes in class "
        "folders for classifiers (default: %(default)s)",
    )
    parser.add_argument("--num-train", type=int, default=600, help="training images (default: %(default)s)")
    parser.add_argument("--num-val", type=int, default=120, help="validation images (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=160, help="longer side in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same files (default: %(default)s)")
    parser.add_argument("--preview", type=int, default=0, metavar="N", help="draw N training images to OUT/preview.png")


def run(args: argparse.Namespace) -> None:
    """Write the data set."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module, *names = LAYOUTS[args.layout]
    write, preview = (getattr(importlib.import_module(f"convnext_dense.data.shapes.{module}"), name) for name in names)
    try:
        write(
            args.out,
            args.num_train,
            num_val=args.num_val,
            image_size=(args.image_size, args.image_size),
            seed=args.seed,
        )
    except OSError as error:
        raise UserError(f"{args.out} cannot be written ({error.strerror}): name another folder.") from error
    print(f"Images and annotations: {args.out}")
    if args.preview > 0:
        print(f"Preview: {preview(args.out, args.preview)}")
