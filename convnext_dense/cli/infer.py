"""Predict and draw the results: python tools/infer.py CONFIG CHECKPOINT IMAGE_OR_FOLDER_OR_VIDEO ..."""

import argparse
import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from convnext_dense.cli.command_line import add_device_argument, add_options_argument
from convnext_dense.engine.signals import leaving_on_signals
from convnext_dense.errors import UserError
from convnext_dense.inference import Tiles, load_model
from convnext_dense.inference.loading import is_whole
from convnext_dense.inference.running import Done, Run
from convnext_dense.inference.sources import Source, find_sources
from convnext_dense.inference.video import Video, of_last_frame
from convnext_dense.terminal import Progress

_SHOWN_ERRORS = 20


@leaving_on_signals()
def main() -> None:
    """Read the arguments, predict, and write one picture per image and one video per video."""
    parser = argparse.ArgumentParser(description=__doc__, usage="%(prog)s CONFIG CHECKPOINT IMAGE ... [options]")
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
        "--overlap", type=float, default=Tiles.overlap, help="of neighbouring tiles, as a share (default: %(default)s)"
    )
    parser.add_argument("--track", action="store_true", help="number the objects of a video over its frames")
    add_options_argument(parser)
    args = parser.parse_args()

    tiles = None if args.tile is None else Tiles(args.tile, args.overlap)
    checkpoint, images = args.checkpoint, args.images
    if is_whole(args.config):
        checkpoint, images = None, [checkpoint, *images]
    if not images:
        parser.error("name an image, a folder or a video after CONFIG and CHECKPOINT.")
    sources = find_sources(images, recursive=args.recursive)
    model = load_model(args.config, checkpoint, options=args.cfg_options, device=args.device)
    run = Run(
        model,
        sources,
        Path(args.out_dir),
        out=args.out,
        score_thr=args.score_thr,
        batch_size=args.batch_size,
        tiles=tiles,
        is_tracked=args.track,
    )
    failed = watch(run, sources)
    print(f"Pictures are in {args.out_dir}")
    print(f"Predictions are in {', '.join(run.files)}")
    if failed:
        raise UserError(describe_failed(failed, len(sources)))


def describe_failed(failed: Sequence[Done], number: int) -> str:
    """Return what is wrong with the sources that could not be read, of a number of them."""
    lines = [str(done.error) for done in failed[:_SHOWN_ERRORS]]
    if number == 1:
        return lines[0]
    more = [f"and {len(failed) - _SHOWN_ERRORS} more"] if len(failed) > _SHOWN_ERRORS else []
    return "\n  ".join([f"{len(failed)} of {number} could not be read, all others are done:", *lines, *more])


def watch(run: Run, sources: Sequence[Source]) -> list[Done]:
    """Do a run, with a line per image or video and a progress bar, and return what could not be read."""
    failed: list[Done] = []
    numbers = itertools.count(1)
    bar = Progress("predicting", count_images(sources))
    with bar, contextlib.closing(iter(run)) as running:  # files are whole when it is closed, also by a signal
        for _, of_source in itertools.groupby(running, key=lambda done: done.source):
            for done in of_source:
                bar.advance()
                last = done
            if last.error is not None:
                failed.append(last)
            found = f"not read: {last.error}" if last.error else last.text
            if last.frame:
                found = of_last_frame(last.frame, found)
            what = last.source.place if last.error else last.file
            print(f"[{next(numbers)}/{len(sources)}] {what}: {found}")
    return failed


def count_images(sources: Sequence[Source]) -> int | None:
    """Return the number of images and frames; None if it is not known before, as for cameras."""
    total = 0
    for source in sources:
        if not source.is_video:
            total += 1
            continue
        if source.is_live or source.is_address:
            return None
        with contextlib.suppress(UserError):
            total += Video(source.place).num_frames or 0
    return total
