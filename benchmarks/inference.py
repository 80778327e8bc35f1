"""A loaded detector: time per call beside the bare model, videos, and a huge picture in tiles.

python -m benchmarks.inference CONFIG CHECKPOINT DATA --json benchmarks/results/inference.json

DATA is a folder in COCO's format. Calls: the mean of 100 calls of ``model(image)`` beside as many of the model's own
``test_step`` with its pipeline, in turns. Videos: of 30 and of 300 frames, made of the validation images, each by
tools/infer.py in a process of its own; peak memory, and frames per second beside the bare model. Tiles: a picture of
8192 x 8192 pixels made of the validation images, cut into tiles of the size of one; the recall of its objects (IoU of
boxes at least 0.5, score at least 0.3) beside that of the images on their own, and the peak memory of the process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
CALLS = 100
SIDE = 8192
OVERLAP = 0.5  # the largest objects are half as large as an image
FRAMES = (30, 300)
MIN_IOU, MIN_SCORE = 0.5, 0.3


def main() -> None:
    """Parse the arguments, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, help="result file")
    parser.add_argument("--tiles-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    content, images = read_val(args.data)
    if args.tiles_only:
        print(json.dumps(measure_tiles(args.config, args.checkpoint, content, images)))
        return
    from benchmarks.timing import cpu_name

    result = dict(
        calls=measure_calls(args.config, args.checkpoint, [images / item["file_name"] for item in content["images"]]),
        video=measure_video(args.config, args.checkpoint, [images / item["file_name"] for item in content["images"]]),
        tiles=run_tiles(args),
        date=str(date.today()),
        cpu=cpu_name(),
        threads=int(os.environ.get("OMP_NUM_THREADS", 0)),
    )
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def read_val(data: Path) -> tuple[dict[str, Any], Path]:
    """Return the annotations of the validation split and the folder of its images."""
    from benchmarks.yolo import read_split

    return read_split(data, "val")


def measure_calls(config: str, checkpoint: str, paths: Sequence[Path]) -> dict[str, float]:
    """Return processor milliseconds per image of ``model(image)`` and of the bare model with its pipeline."""
    import torch

    from convnext_dense.inference import load_model

    model: Any = load_model(config, checkpoint, device="cpu")

    def bare(path: Path) -> None:
        inputs = model._collate([model._from_file(dict(img_path=str(path), img_id=0, **model._words))])
        with torch.inference_mode():
            model.model.test_step(inputs)

    taken = {"bare": [], "call": []}
    for path in [paths[0], *(paths[number % len(paths)] for number in range(CALLS))]:
        for name, function in (("bare", bare), ("call", model)):
            start = time.process_time()
            function(path)
            taken[name].append(time.process_time() - start)
    means = {name: 1e3 * float(np.mean(values[1:])) for name, values in taken.items()}  # the first warms up
    return {f"{name}_ms": value for name, value in means.items()} | {"ratio": means["call"] / means["bare"]}


def measure_video(config: str, checkpoint: str, paths: Sequence[Path]) -> dict[str, Any]:
    """Return peak memory and processor seconds of tools/infer.py on videos of different lengths."""
    from convnext_dense.inference.video import VideoWriter

    pictures = [cv2.imread(str(path)) for path in paths]
    shape = np.max([picture.shape for picture in pictures], axis=0)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in FRAMES:
            file = Path(folder) / f"{number}.mp4"
            with VideoWriter(file, 25) as writer:
                for frame in range(number):
                    canvas = np.zeros(shape, np.uint8)
                    picture = pictures[frame % len(pictures)]
                    canvas[: picture.shape[0], : picture.shape[1]] = picture
                    writer.add(canvas)
            command = [sys.executable, "tools/infer.py", config, checkpoint, str(file), "--out-dir", f"{folder}/out"]
            found[f"{number}_frames"] = run_and_measure(command)
    few, many = (found[f"{number}_frames"] for number in FRAMES)
    found["memory_ratio"] = many["peak_megabytes"] / few["peak_megabytes"]
    found["ms_per_frame"] = 1e3 * (many["seconds"] - few["seconds"]) / (FRAMES[1] - FRAMES[0])
    return found


def run_and_measure(command: Sequence[str]) -> dict[str, float]:
    """Run a command; return its processor seconds and its peak memory."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed.")
    return dict(seconds=usage.ru_utime + usage.ru_stime, peak_megabytes=usage.ru_maxrss / 1e3)


def run_tiles(args: argparse.Namespace) -> dict[str, Any]:
    """Measure tiles in a process of its own, whose peak memory is theirs."""
    command = [sys.executable, "-m", "benchmarks.inference", args.config, args.checkpoint, str(args.data)]
    out = subprocess.run([*command, "--tiles-only"], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def measure_tiles(config: str, checkpoint: str, content: Mapping[str, Any], images: Path) -> dict[str, Any]:
    """Return the recall of a huge picture's objects in tiles, and of the images that it is made of on their own."""
    from convnext_dense.inference import Tiles, load_model

    model = load_model(config, checkpoint, device="cpu")
    pictures = [cv2.imread(str(images / item["file_name"])) for item in content["images"]]
    boxes: dict[Any, list[list[float]]] = {item["id"]: [] for item in content["images"]}
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            x, y, width, height = annotation["bbox"]
            boxes[annotation["image_id"]].append([x, y, x + width, y + height, annotation["category_id"]])
    names = {item["id"]: item["name"] for item in content["categories"]}
    alone = [model(picture) for picture in pictures]
    cell = max(max(picture.shape[:2]) for picture in pictures)
    mosaic = np.full((SIDE, SIDE, 3), 114, np.uint8)
    truths, recalled = [], []
    for number in range((SIDE // cell) ** 2):
        row, column = divmod(number, SIDE // cell)
        place = number % len(pictures)
        picture = pictures[place]
        mosaic[row * cell : row * cell + picture.shape[0], column * cell : column * cell + picture.shape[1]] = picture
        given = np.array(boxes[content["images"][place]["id"]]).reshape(-1, 5)
        recalled.append(recall_of(alone[place], given, names))
        truths.append(given + np.array([column, row, column, row, 0]) * cell)
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    start = time.process_time()
    found = model(mosaic, tiles=Tiles(cell, OVERLAP))
    seconds = time.process_time() - start
    truth = np.concatenate(truths)
    return dict(
        objects=len(truth),
        tile=cell,
        overlap=OVERLAP,
        recall_alone=float(np.concatenate(recalled).mean()),
        recall_in_tiles=float(recall_of(found, truth, names).mean()),
        seconds=seconds,
        peak_megabytes_before=memory_before,
        peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    )


def recall_of(found: Any, truth: np.ndarray, names: Mapping[int, str]) -> np.ndarray:
    """Return which of the objects (n, 5) of x1, y1, x2, y2 and category were found."""
    kept = found.take(found.scores >= MIN_SCORE)
    labels = np.array(kept.names)
    is_found = []
    for *box, category in truth:
        of_class = kept.boxes[labels == names[int(category)]] if len(labels) else np.zeros((0, 4))
        low, high = np.maximum(of_class[:, :2], box[:2]), np.minimum(of_class[:, 2:], box[2:])
        shared = (high - low).clip(0).prod(axis=1)
        areas = (of_class[:, 2:] - of_class[:, :2]).prod(axis=1) + (box[2] - box[0]) * (box[3] - box[1])
        is_found.append(bool((shared / (areas - shared) >= MIN_IOU).any()))
    return np.array(is_found, bool)


if __name__ == "__main__":
    main()
