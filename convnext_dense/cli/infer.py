"""Predict and draw the results: convnext-dense infer CONFIG CHECKPOINT SOURCE ..."""

import argparse
from pathlib import Path

from convnext_dense.cli.command_line import add_device_argument, add_options_argument
from convnext_dense.errors import UserError

OVERLAP = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.usage = "%(prog)s CONFIG CHECKPOINT IMAGE ... [options]"
    parser.add_argument("config", help="config of the model; or an exported folder, or zoo:NAME, without CHECKPOINT")
    parser.add_argument("checkpoint", help="path, address or zoo:NAME of the weights")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="images, videos, folders of them, patterns ('a/**/*.jpg'), http(s):// addresses, camera:0, rtsp:// "
        "streams, text files with such names, or - for names from standard input",
    )
    parser.add_argument("--out-dir", default="outputs", help="folder for pictures (default: outputs)")
    parser.add_argument(
        "--out", metavar="F", help="write predictions: NAME.json in COCO's result format, or a folder for label images"
    )
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        help="leave objects below this score out of the pictures (default: %(default)s); the files have all of them",
    )
    add_device_argument(parser)
    parser.add_argument("--batch-size", type=int, default=1, help="images per forward pass (default: 1)")
    parser.add_argument("--recursive", action="store_true", help="images in all subfolders, too")
    parser.add_argument("--tile", type=int, metavar="N", help="find objects in tiles of N pixels (huge pictures)")
    parser.add_argument(
        "--overlap", type=float, default=OVERLAP, help="of neighbouring tiles, as a share (default: %(default)s)"
    )
    parser.add_argument("--track", action="store_true", help="number the objects of a video over its frames")
    add_options_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Predict, and write one picture per image and one video per video."""
    from convnext_dense.inference import Tiles, load_model
    from convnext_dense.inference.loading import is_whole
    from convnext_dense.inference.running import Run
    from convnext_dense.inference.sources import find_sources
    from convnext_dense.inference.watching import describe_failed, watch

    tiles = None if args.tile is None else Tiles(args.tile, args.overlap)
    checkpoint, images = args.checkpoint, args.images
    if is_whole(args.config):
        checkpoint, images = None, [checkpoint, *images]
    if not images:
        args.fail("name an image, a folder or a video after CONFIG and CHECKPOINT.")
    sources = find_sources(images, recursive=args.recursive)
    model = load_model(args.config, checkpoint, options=args.cfg_options, device=args.device)
    running = Run(
        model,
        sources,
        Path(args.out_dir),
        out=args.out,
        score_thr=args.score_thr,
        batch_size=args.batch_size,
        tiles=tiles,
        is_tracked=args.track,
    )
    failed = watch(running, sources)
    print(f"Pictures are in {args.out_dir}")
    print(f"Predictions are in {', '.join(running.files)}")
    if failed:
        raise UserError(describe_failed(failed, len(sources)))
