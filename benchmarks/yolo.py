"""AP of a demo config and of Ultralytics' YOLO11n-seg, both from random weights, after equal processor time.

pip install -e '.[benchmark-yolo]'
python -m benchmarks.yolo data/shapes --config configs/demo/mask_rcnn_convnext_atto_shapes.py --image-size 160
python -m benchmarks.yolo NUCLEI --config configs/demo/mask_rcnn_convnext_atto_scratch.py --image-size 320
python -m benchmarks.yolo NUCLEI --seconds 1493 --image-size 320      # YOLO alone

The folder is one for ``--data``, in COCO's format. For each seed, tools/train.py trains the config by its own schedule,
and YOLO trains for the processor seconds that this took. Runs already in the result file are skipped.

Time: both use one thread. Ours counts everything that tools/train.py and its workers do, start-up, checks and
validation included. YOLO's counts the call of ``train()`` up to the end of the last epoch, in one process: neither
imports, nor the conversion of the annotations, nor validation. A probe of two epochs, which does not count either,
gives the number of epochs to start with; after each epoch the number is fitted to the seconds that are left, so that
learning rate, warm-up and the epochs without mosaic follow the schedule of a run that ends in time. Ultralytics' own
``time`` argument does the same by the clock on the wall. A processor second is worth less on a busy machine, and
something else on another one: compare what was measured together.

YOLO: the model file without weights; Ultralytics' defaults for batch, optimizer, schedule, augmentation, mask size and
EMA, unless ``--batch-size`` is given; images cached in memory; float32. The weights are those of the last epoch, which
no validation chooses. Detections are those of its own validation: scores from 0.001, several classes per object, its
NMS, 300 per image; masks at the size of the image.

Annotations: one polygon per object. Parts of an object are joined where they are closest, as Ultralytics' converter
does. Run lengths are traced along the outer edges of the pixels, and holes are filled. Crowds are left out.

Evaluation: both write COCO's result format, which is read by the code behind ``convnext_dense.CocoMetric``. All numbers
count the 100 best detections per image and class.
"""

import argparse
import datetime
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as masks

from benchmarks.pretraining_gain import command
from benchmarks.timing import cpu_name
from convnext_dense.data.own.detection import category_names, image_folder, present_split, read_annotations
from convnext_dense.data.shapes.coco import encode_polygons
from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_evaluation import MAX_DETECTIONS, Item, Truth

MODEL = "yolo11n-seg"
SPLITS = ("train", "val")
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
ITEMS = {"AP": None, "AP50": 0.5, "AP75": 0.75}  # COCO's names -> a single IoU threshold
METRICS = tuple(f"{kind} {item}" for kind in ("box", "mask") for item in ITEMS)


def main() -> None:
    """Parse the arguments, run what is missing, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in COCO format")
    parser.add_argument("--config", help="config to train on the folder first; its processor seconds are YOLO's")
    parser.add_argument("--seconds", type=float, help="processor seconds of YOLO; default: those of --config")
    parser.add_argument("--image-size", type=int, required=True, help="longer side of YOLO's images, in pixels")
    parser.add_argument(
        "--batch-size", type=int, help="images per step of YOLO's optimizer; default: Ultralytics', 4 batches of 16"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: %(default)s")
    parser.add_argument("--name", help="name of the data in the result; default: that of the folder")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/yolo"), help="default: %(default)s")
    parser.add_argument(
        "--json", type=Path, default=Path("benchmarks/results/yolo.json"), help="result file (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.config is None and args.seconds is None:
        parser.error("--config CONFIG or --seconds S is needed.")
    import_ultralytics()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of tools/train.py
    name = args.name or args.data.resolve().name
    result = json.loads(args.json.read_text()) if args.json.is_file() else {"runs": {}}
    for seed in args.seeds:
        seconds = args.seconds
        if args.config is not None:
            ours = f"{name} {Path(args.config).stem} {seed}"
            if ours not in result["runs"]:
                values = run_config(args.config, args.data, args.work_dir / ours, seed=seed)
                write_result(result, args.json, ours, values, "ultralytics")
            seconds = seconds or result["runs"][ours]["seconds"]
        theirs, options = f"{name} {MODEL} {seed}", dict(imgsz=args.image_size, seed=seed)
        if args.batch_size is not None:
            # nbs is the number of images up to which gradients are accumulated.
            theirs = f"{name} {MODEL} batch {args.batch_size} {seed}"
            options |= dict(batch=args.batch_size, nbs=args.batch_size)
        if theirs not in result["runs"]:
            values = run_yolo(args.data, args.work_dir / theirs, seconds, options)
            write_result(result, args.json, theirs, values, "ultralytics")
    print(json.dumps(result, indent=2))


def write_result(result: dict[str, Any], path: Path, name: str, values: dict[str, float], *packages: str) -> None:
    """Add a run to the result, with the versions of further packages that were used, and write it."""
    result["runs"][name] = values
    result["summary"] = summarise(result["runs"])
    result |= {"date": str(datetime.date.today()), "cpu": cpu_name(), "threads": 1}
    result["versions"] = {package: version(package) for package in ("torch", "faster-coco-eval", *packages)}
    path.write_text(json.dumps(result, indent=2) + "\n")


def summarise(runs: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return mean and standard deviation over seeds, per data set, model and metric."""
    summary = {}
    for model in dict.fromkeys(name.rpartition(" ")[0] for name in runs):
        mine = [values for name, values in runs.items() if name.rpartition(" ")[0] == model]
        for metric in METRICS:
            values = [item[metric] for item in mine]
            spread = stdev(values) if len(values) > 1 else None
            summary[f"{model} {metric}"] = {"mean": mean(values), "deviation": spread, "seeds": len(values)}
    return summary


def run_config(
    config: str, data: Path, work_dir: Path, *arguments: str, seed: int, options: Sequence[str] = ()
) -> dict[str, float]:
    """Train a config with further arguments and options, and return AP and the processor seconds of training."""
    start = seconds_of_children()
    given = [*arguments, "--cfg-options", f"randomness.seed={seed}", *options]
    command("tools/train.py", config, "--data", str(data), "--work-dir", str(work_dir), *given)
    seconds = seconds_of_children() - start
    checkpoint = (work_dir / "last_checkpoint").read_text().strip()
    out = work_dir / "detections.json"
    command("tools/test.py", config, checkpoint, "--data", str(data), "--out", str(out), "--work-dir", str(work_dir))
    found = {kind: json.loads(out.with_suffix(f".{kind}.json").read_text()) for kind in ("bbox", "segm")}
    return score(read_split(data, "val")[0], found["bbox"], found["segm"]) | {"seconds": round(seconds, 1)}


def seconds_of_children() -> float:
    """Return processor seconds of the processes that were started here and have ended, with all below them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_yolo(data: Path, work_dir: Path, seconds: float, options: dict[str, Any]) -> dict[str, float]:
    """Train YOLO for a number of processor seconds with some options, and return AP, seconds and epochs."""
    work_dir = work_dir.resolve()
    with tempfile.TemporaryDirectory() as folder:
        dataset = convert(data, Path(folder))
        # With two epochs, mosaic would be off from the start.
        probe = train_yolo(dataset, work_dir / "probe", dict(options, epochs=2, close_mosaic=0))
        epochs = max(1, round(seconds / (probe.ends[1] - probe.ends[0])))
        clock = train_yolo(dataset, work_dir, dict(options, epochs=epochs), seconds=seconds)
    content, images = read_split(data, "val")
    detections = detect(work_dir / "weights/last.pt", content, images, image_size=options["imgsz"])
    (work_dir / "detections.json").write_text(json.dumps(detections))
    values = score(content, detections, detections)
    return values | {"seconds": round(clock.ends[-1], 1), "epochs": len(clock.ends), "epochs_of_probe": epochs}


class ProcessorClock:
    """Processor seconds at the end of every epoch, and the number of epochs that fits into a budget.

    Args:
        seconds: The budget; None to leave the number of epochs as it is.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.start = time.process_time()
        self.ends: list[float] = []

    def end_epoch(self, trainer: Any) -> None:
        """Note an epoch, and fit ``trainer.epochs``, from which the schedule is calculated, to what is left."""
        self.ends.append(time.process_time() - self.start)
        if self.seconds is not None:
            spent, done = self.ends[-1], len(self.ends)
            trainer.epochs = trainer.args.epochs = done + max(0, round((self.seconds - spent) / (spent / done)))


def train_yolo(
    dataset: Path, work_dir: Path, options: Mapping[str, Any], *, seconds: float | None = None
) -> ProcessorClock:
    """Train YOLO from random weights; the last weights are in ``work_dir/weights/last.pt``.

    Args:
        dataset: Ultralytics' description of the data, as ``convert`` returns it.
        work_dir: Folder for logs and weights.
        options: Ultralytics' options: ``imgsz``, ``seed``, ``epochs`` (those to start with) and more.
        seconds: Processor seconds after which training ends; None for exactly ``epochs``.
    """
    model = import_ultralytics().YOLO(f"{MODEL}.yaml", task="segment")
    clock = ProcessorClock(seconds)
    # Ultralytics sets the number of threads from the number of cores.
    model.add_callback("on_train_start", lambda _: torch.set_num_threads(1))
    model.add_callback("on_train_epoch_end", clock.end_epoch)
    model.train(
        data=str(dataset), device="cpu", workers=0, cache="ram", amp=False, pretrained=False, val=False, save=False,
        plots=False, project=str(work_dir.parent), name=work_dir.name, exist_ok=True, **options,
    )  # fmt: skip
    return clock


def detect(weights: Path, content: Mapping[str, Any], images: Path, *, image_size: int) -> list[dict[str, Any]]:
    """Return YOLO's detections on the images of an annotation file, in COCO's result format."""
    ultralytics = import_ultralytics()
    from ultralytics.models.yolo.segment import SegmentationPredictor
    from ultralytics.utils.nms import non_max_suppression

    class Predictor(SegmentationPredictor):
        """Lets an object have several classes, as Ultralytics' validation does and its prediction does not."""

        def postprocess(self, preds: Any, img: Any, orig_imgs: Any) -> list:
            boxes, prototypes = preds[0]
            args, num_classes = self.args, len(self.model.names)
            found = non_max_suppression(
                boxes, args.conf, args.iou, multi_label=True, max_det=args.max_det, nc=num_classes
            )
            return self.construct_results(found, img, orig_imgs, prototypes)

    model = ultralytics.YOLO(weights)
    detections = []
    for image in content["images"]:
        (result,) = model.predict(
            images / image["file_name"], predictor=Predictor, imgsz=image_size, conf=0.001, max_det=300,
            retina_masks=True, device="cpu", verbose=False,
        )  # fmt: skip
        detections += list(as_coco(result, image["id"], category_ids(content)))
    return detections


def as_coco(result: Any, image_id: Any, ids: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield the detections in one result of Ultralytics, in COCO's format; ``ids`` are those of the classes."""
    if result.masks is None:
        return
    boxes = result.boxes
    for box, confidence, label, mask in zip(boxes.xyxy, boxes.conf, boxes.cls, result.masks.data, strict=True):
        left, top, right, bottom = box.tolist()
        encoded = masks.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        yield {
            "image_id": image_id,
            "category_id": ids[int(label)],
            "score": float(confidence),
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
        }


def score(
    content: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]], segments: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return the ``METRICS`` of detections in COCO's result format.

    Args:
        content: Content of the annotation file.
        boxes: Detections whose boxes are evaluated.
        segments: Detections whose masks are evaluated.
    """
    truth = Truth(content, category_ids(content))
    values = {}
    for kind, name, detections in (("bbox", "box", boxes), ("segm", "mask", segments)):
        figures = truth.evaluate(detections, kind, iou_thrs=IOU_THRESHOLDS, limits=[MAX_DETECTIONS])
        for item, iou in ITEMS.items():
            values[f"{name} {item}"] = figures[Item("precision", MAX_DETECTIONS, iou=iou)]
    return values


def read_split(data: Path, split: str) -> tuple[dict[str, Any], Path]:
    """Return the content of a split's annotation file, and the folder of its images."""
    found = present_split(data, split)
    if found is None or not found.annotations:
        raise UserError(f"{data} has no annotations of the {split} split in COCO's format.")
    path = data / found.annotations
    folder = data / image_folder(data, split, json.loads(path.read_text()))
    return read_annotations(path, folder=folder), folder


def category_ids(content: Mapping[str, Any]) -> list[Any]:
    """Return the id of every class, in the order of the labels."""
    ids = {category["name"]: category["id"] for category in content["categories"]}
    return [ids[name] for name in category_names(dict(content))]


def convert(data: Path, target: Path) -> Path:
    """Copy images, write labels in Ultralytics' format, and return the file that describes them.

    Images are copied because Ultralytics rewrites JPEG files that end too early.
    """
    names: list[str] = []
    for split in SPLITS:
        content, images = read_split(data, split)
        names = names or category_names(content)
        if category_names(content) != names:
            raise UserError(f"The splits of {data} have different classes, or in another order: {names}.")
        pictures, labels = target / "images" / split, target / "labels" / split
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        objects: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for item in content["annotations"]:
            objects[item["image_id"]].append(item)
        ids = category_ids(content)
        for number, image in enumerate(content["images"]):
            shutil.copyfile(images / image["file_name"], pictures / f"{number:07d}{Path(image['file_name']).suffix}")
            lines = [label_line(item, image, ids) for item in objects[image["id"]] if not item.get("iscrowd")]
            (labels / f"{number:07d}.txt").write_text("".join(f"{line}\n" for line in lines))
    description = target / "data.yaml"
    splits = {split: f"images/{split}" for split in SPLITS}
    # JSON is YAML.
    description.write_text(json.dumps({"path": str(target), **splits, "names": names}))
    return description


def label_line(item: Mapping[str, Any], image: Mapping[str, Any], ids: Sequence[Any]) -> str:
    """Return an object as Ultralytics' line: the label and a polygon in fractions of width and height."""
    height, width = image["height"], image["width"]
    parts = outline(item["segmentation"], height, width) if item.get("segmentation") else []
    if not parts:
        raise UserError(f"Annotation {item.get('id')!r} has no mask, but YOLO's segmentation needs one of each object.")
    fractions = np.clip(join(parts) / (width, height), 0, 1)
    return " ".join([str(ids.index(item["category_id"])), *(f"{value:.6g}" for value in fractions.flatten())])


def outline(segmentation: Any, height: int, width: int) -> list[np.ndarray]:
    """Return the corners (N, 2) of each part of a COCO mask, along the outer edges of its pixels."""
    if isinstance(segmentation, list):
        return [np.reshape(part, (-1, 2)).astype(float) for part in segmentation]
    if isinstance(segmentation["counts"], list):
        segmentation = masks.frPyObjects(segmentation, height, width)
    mask = np.ascontiguousarray(masks.decode(segmentation))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(mask), contours, -1, 1, cv2.FILLED)
    return [np.reshape(part, (-1, 2)).astype(float) for part in encode_polygons(filled) or ()]


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join polygons (N, 2) into one, by a line there and back where each is closest to those before it."""
    whole = parts[0]
    for part in parts[1:]:
        distances = ((whole[:, None] - part[None]) ** 2).sum(axis=-1)
        near, other = np.unravel_index(distances.argmin(), distances.shape)
        whole = np.concatenate([whole[: near + 1], part[other:], part[: other + 1], whole[near:]])
    return whole


def import_ultralytics() -> Any:
    """Import Ultralytics so that it neither installs, downloads nor sends anything, nor writes to the home folder."""
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
    try:
        import ultralytics
    except ImportError as error:
        raise UserError(
            "The comparison needs Ultralytics, whose licence is AGPL-3.0: pip install -e '.[benchmark-yolo]'."
        ) from error
    return ultralytics


if __name__ == "__main__":
    main()
