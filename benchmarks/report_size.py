"""A detector's report at the size of COCO's validation set: time, memory, and size of the page.

python -m benchmarks.report_size --json benchmarks/results/report_size.json

5,000 images, 36,000 labelled objects of 80 classes with masks, and 500,000 found ones, made up: most are labelled ones
that are moved a little, some are moved far, of another class, or invented. Everything is measured that tools/report.py
does after the model has run: the twelve APs of boxes and masks, matching, costs of errors, pictures, all files.
"""

import argparse
import datetime
import itertools
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from pycocotools import mask as masks

from benchmarks.timing import cpu_name
from convnext_dense.inference import Detections, LoadedModel
from convnext_dense.inference.validation import Evaluation
from convnext_dense.reports.reporting import write_report

HEIGHT, WIDTH = 480, 640
NUM_CLASSES = 80
_SIDES = 12  # of the polygon that is an object


def main() -> None:
    """Make the data up, report on it, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="default: %(default)s")
    parser.add_argument("--objects", type=int, default=36000, help="labelled ones (default: %(default)s)")
    parser.add_argument("--found", type=int, default=500000, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args.images, args.objects, args.found)
    result |= dict(cpu=cpu_name(), threads=os.environ.get("OMP_NUM_THREADS"), date=str(datetime.date.today()))
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, num_images: int, num_objects: int, num_found: int) -> dict[str, Any]:
    """Return the seconds, the peak memory in megabytes, and the sizes in megabytes."""
    rng = np.random.default_rng(0)
    truth = make_truth(rng, num_images, num_objects)
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    evaluation = Evaluation(write_data(folder, truth, num_images, names), names)
    results = make_results(rng, truth, num_images, num_found, names)
    before = peak_megabytes()
    start, processor = time.perf_counter(), time.process_time()
    facts = dict(config="made up", checkpoint="made up", parameters=0)
    report = write_report(folder / "report", _Model(names), evaluation, iter(results), facts)
    assert report.predictions is not None
    return dict(
        images=num_images,
        objects=num_objects,
        found=num_found,
        seconds=round(time.perf_counter() - start, 1),
        processor_seconds=round(time.process_time() - processor, 1),
        peak_mb=round(peak_megabytes()),
        peak_mb_before=round(before),
        page_mb=round(report.page.stat().st_size / 1e6, 2),
        predictions_mb=round(report.predictions.stat().st_size / 1e6, 1),
    )


def peak_megabytes() -> float:
    """Return the peak resident set of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_truth(rng: np.random.Generator, num_images: int, number: int) -> dict[str, np.ndarray]:
    """Return images, labels and boxes (corners) of labelled objects, in the order of the images."""
    sizes = np.clip(rng.lognormal(3.7, 1.0, (number, 2)), 6, (WIDTH - 8, HEIGHT - 8))
    corners = rng.uniform(0, 1, (number, 2)) * ((WIDTH, HEIGHT) - sizes)
    boxes = np.hstack([corners, corners + sizes])
    return dict(
        images=np.sort(rng.integers(0, num_images, number)),
        labels=np.minimum(rng.geometric(0.05, number), NUM_CLASSES) - 1,  # some classes are rare
        boxes=boxes,
    )


def polygon(box: np.ndarray) -> list[float]:
    """Return the corners of a polygon that fills a box."""
    angles = 2 * np.pi * np.arange(_SIDES) / _SIDES
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return ((box[:2] + box[2:]) / 2 + circle * (box[2:] - box[:2]) / 2).ravel().tolist()


def write_data(folder: Path, truth: dict[str, np.ndarray], num_images: int, names: list[str]) -> Config:
    """Write images and annotations, and return a config that evaluates on them."""
    picture = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 200, np.uint8))[1].tobytes()
    (folder / "val").mkdir()
    images = []
    for number in range(num_images):
        images.append(dict(id=number + 1, file_name=f"{number:06}.jpg", height=HEIGHT, width=WIDTH))
        (folder / "val" / images[-1]["file_name"]).write_bytes(picture)
    annotations = [
        dict(
            id=number + 1,
            image_id=int(image) + 1,
            category_id=int(label) + 1,
            bbox=[*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            area=float((box[2:] - box[:2]).prod() * np.pi / 4),
            iscrowd=0,
            segmentation=[polygon(box)],
        )
        for number, (image, label, box) in enumerate(zip(*truth.values(), strict=True))
    ]
    categories = [dict(id=label + 1, name=name) for label, name in enumerate(names)]
    path = folder / "instances.json"
    path.write_text(json.dumps(dict(images=images, categories=categories, annotations=annotations)))
    dataset = dict(
        type="CocoDataset", ann_file=str(path), data_prefix=dict(img=str(folder / "val")), metainfo=dict(classes=names)
    )
    dataset |= dict(test_mode=True, pipeline=[])
    metric = dict(type="convnext_dense.CocoMetric", ann_file=str(path), metric=["bbox", "segm"])
    return Config(dict(default_scope="mmdet", val_dataloader=dict(dataset=dataset), val_evaluator=metric))


def make_results(
    rng: np.random.Generator, truth: dict[str, np.ndarray], num_images: int, number: int, names: list[str]
) -> list[Detections]:
    """Return what was found in each image."""
    source = rng.integers(0, len(truth["labels"]), number)
    boxes, images = truth["boxes"][source], truth["images"][source]
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    kind = rng.random(number)  # right, moved far, or invented
    boxes = boxes + rng.normal(0, 1, boxes.shape) * sizes * np.where(kind < 0.5, 0.05, 0.4)[:, None]
    labels = np.where(rng.random(number) < 0.85, truth["labels"][source], rng.integers(0, NUM_CLASSES, number))
    images = np.where(kind < 0.8, images, rng.integers(0, num_images, number))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 4)
    boxes = np.clip(boxes, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    scores = np.where(kind < 0.5, rng.beta(1.5, 2, number), rng.beta(0.7, 4, number))
    order = np.lexsort((-scores, images))
    limits = np.searchsorted(images[order], np.arange(num_images + 1))
    results = []
    for start, stop in itertools.pairwise(limits):
        part = order[start:stop][:100]
        rles = masks.frPyObjects([polygon(box) for box in boxes[part]], HEIGHT, WIDTH) if len(part) else []
        texts = tuple(dict(rle, counts=rle["counts"].decode()) for rle in rles)
        found = boxes[part].astype(np.float32), scores[part].astype(np.float32), labels[part]
        results.append(Detections(*found, tuple(names), (HEIGHT, WIDTH), texts))
    return results


class _Model(LoadedModel):
    """A model whose pictures are those of the files."""

    task = "detection"

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.class_names = tuple(names)

    def picture(self, image: Any) -> np.ndarray:
        return cv2.imread(str(image))

    def _read(self, image: Any) -> np.ndarray:
        return self.picture(image)

    def _prepare(self, image: Any, number: int) -> Any:
        return image

    def _run(self, prepared: Any) -> Iterator[Any]:  # type: ignore[override]
        raise NotImplementedError


if __name__ == "__main__":
    main()
