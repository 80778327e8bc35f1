"""Write the generated data of the demos: python tools/make_shapes.py data/shapes --preview 24."""

import argparse
import logging
from collections.abc import Callable

from convnext_dense.data.shapes.ade import draw_ade_preview, write_ade
from convnext_dense.data.shapes.coco import draw_preview, write_coco
from convnext_dense.data.shapes.crops import draw_crops_preview, write_crops

# Layout -> the functions that write it and draw its preview.
LAYOUTS: dict[str, tuple[Callable[..., bool], Callable[..., object]]] = {
    "coco": (write_coco, draw_preview),
    "ade": (write_ade, draw_ade_preview),
    "crops": (write_crops, draw_crops_preview),
}


def parse_args() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description="Write a small data set of drawn shapes.")
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
    return parser.parse_args()


def main() -> None:
    """Read the arguments and write the data set."""
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write, preview = LAYOUTS[args.layout]
    write(
        args.out,
        args.num_train,
        num_val=args.num_val,
        image_size=(args.image_size, args.image_size),
        seed=args.seed,
    )
    print(f"Images and annotations: {args.out}")
    if args.preview > 0:
        print(f"Preview: {preview(args.out, args.preview)}")
