"""Predict and draw the results: python tools/infer.py CONFIG CHECKPOINT IMAGE_OR_FOLDER ..."""

import argparse
from pathlib import Path

import numpy as np

from convnext_dense.cli.command_line import add_options_argument
from convnext_dense.data.prediction_files import PredictionWriter, find_images, name_pictures
from convnext_dense.inference import Predictor, draw_result


def main() -> None:
    """Read the arguments, predict, and write one picture per image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of the config")
    parser.add_argument("checkpoint", help="path, address or zoo:NAME of the weights")
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--out-dir", default="outputs", help="folder for pictures (default: outputs)")
    parser.add_argument(
        "--out", metavar="F", help="write predictions: NAME.json in COCO's result format, or a folder for label images"
    )
    parser.add_argument("--score-thr", type=float, default=0.3, help="leave out objects below this score (detection)")
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: the accelerator if there is one)")
    parser.add_argument("--batch-size", type=int, default=1, help="images per forward pass (default: 1)")
    add_options_argument(parser)
    args = parser.parse_args()

    images = find_images(args.images)
    pictures = name_pictures(images, Path(args.out_dir))
    predictor = Predictor(args.config, args.checkpoint, options=args.cfg_options, device=args.device)
    writer = None
    if args.out:
        writer = PredictionWriter(args.out, images, task=predictor.task, first_label=predictor.first_label)
    results = predictor.iterate(images, batch_size=args.batch_size)
    for number, (image, result) in enumerate(zip(images, results, strict=True), start=1):
        draw_result(predictor.picture(image), result, pictures[image], score_thr=args.score_thr)
        if writer is not None:
            writer.add(image, result)
        print(f"[{number}/{len(images)}] {pictures[image]}: {describe(result, args.score_thr)}")
    print(f"Pictures are in {args.out_dir}")
    if writer is not None:
        print(f"Predictions are in {writer.write()}")


def describe(result: dict, score_thr: float) -> str:
    """Return a short summary of a result."""
    if "label_map" in result:
        labels, counts = np.unique(result["label_map"], return_counts=True)
        order = np.argsort(-counts)
        return ", ".join(f"{result['class_names'][labels[i]]} {counts[i] / counts.sum():.1%}" for i in order)
    if "boxes" not in result:
        return ", ".join(f"{name} {score:.1%}" for name, score in zip(result["names"], result["scores"], strict=True))
    kept = [name for name, score in zip(result["names"], result["scores"], strict=True) if score >= score_thr]
    return f"{len(kept)} objects ({', '.join(sorted(set(kept))) or 'none'})"
