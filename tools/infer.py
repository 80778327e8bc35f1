"""Draws a model's predictions: python tools/infer.py CONFIG CHECKPOINT IMAGE_OR_FOLDER ..."""

import argparse
from pathlib import Path

import numpy as np

from convnext_dense.engine.command_line import run_command
from convnext_dense.inference import draw_result, iterate_predictions

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def main() -> None:
    """Reads the arguments, predicts, and writes one picture per image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of the config")
    parser.add_argument("checkpoint", help="path or address of the weights")
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--out-dir", default="outputs", help="where pictures go (default: outputs)")
    parser.add_argument("--score-thr", type=float, default=0.3, help="leave out objects below this score (detection)")
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: the accelerator if there is one)")
    parser.add_argument("--batch-size", type=int, default=1, help="images that run at once (default: 1)")
    args = parser.parse_args()

    images = [file for name in args.images for file in find_images(Path(name))]
    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    results = iterate_predictions(args.config, args.checkpoint, images, device=args.device, batch_size=args.batch_size)
    for number, (image, result) in enumerate(zip(images, results, strict=True), start=1):
        picture = out_dir / f"{image.stem}.png"
        draw_result(image, result, picture, score_thr=args.score_thr)
        print(f"[{number}/{len(images)}] {picture}: {describe(result, args.score_thr)}")
    print(f"Pictures are in {out_dir}")


def describe(result: dict, score_thr: float) -> str:
    """Says in a few words what was found."""
    if "label_map" in result:
        labels, counts = np.unique(result["label_map"], return_counts=True)
        order = np.argsort(-counts)
        return ", ".join(f"{result['class_names'][labels[i]]} {counts[i] / counts.sum():.1%}" for i in order)
    if "boxes" not in result:
        return ", ".join(f"{name} {score:.1%}" for name, score in zip(result["names"], result["scores"], strict=True))
    kept = [name for name, score in zip(result["names"], result["scores"], strict=True) if score >= score_thr]
    return f"{len(kept)} objects ({', '.join(sorted(set(kept))) or 'none'})"


def find_images(path: Path) -> list[Path]:
    """Gives the path itself if it is a file, or the images in a folder, sorted.

    Raises:
        SystemExit: The folder has no image.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise SystemExit(f"Error: there is no image in {path}.")
    return found


if __name__ == "__main__":
    run_command(main)
