"""AP of a fine-tuning config and of a hand-tuned one on few images, after equal processor time.

python -m benchmarks.small_data FOLDER --hand-tuned configs/demo/mask_rcnn_convnext_atto_scratch.py

For each number of training images and each seed, configs/finetune/mask_rcnn_atto.py is trained with ``--data`` alone.
The hand-tuned config then gets as many epochs as take the same processor seconds, by ``--epochs``, which keeps the
shape of its schedule; it is evaluated once, at the end. Both start from random weights. The images are spread evenly
over the training split; the validation split is whole. Runs already in the result file are skipped.

Time: one thread. Processor seconds of tools/train.py and its workers, everything included. What an epoch of the
hand-tuned config takes is the difference between two probes without evaluation, of one epoch and of more, which do not
count.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pretraining_gain import command
from benchmarks.yolo import read_split, run_config, seconds_of_children, write_result

FINETUNE = "configs/finetune/mask_rcnn_atto.py"
PROBED_STEPS = 40
BATCH_SIZE = 4
# What an evaluation takes depends on how much the model finds, so that probes with one cannot be compared.
WITHOUT_EVALUATION = (
    *("val_dataloader=None", "val_cfg=None", "val_evaluator=None"),
    "default_hooks.checkpoint.save_best=None",
)


def main() -> None:
    """Parse the arguments, run what is missing, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in COCO format")
    parser.add_argument("--hand-tuned", required=True, metavar="CONFIG", help="config to compare with")
    parser.add_argument("--config", default=FINETUNE, help="default: %(default)s")
    parser.add_argument("--images", nargs="+", type=int, default=[20, 60, 300], help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--name", help="name of the data in the result; default: that of the folder")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/small_data"), help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/small_data.json"), help="result file")
    args = parser.parse_args()
    name = args.name or args.data.resolve().name
    result = json.loads(args.json.read_text()) if args.json.is_file() else {"runs": {}}
    for seed in args.seeds:
        for number in args.images:
            folder = take_images(args.data, args.work_dir / f"{name}_{number}", number)
            ours, theirs = (f"{name} {number} {Path(path).stem} {seed}" for path in (args.config, args.hand_tuned))
            if ours not in result["runs"]:
                write_result(result, args.json, ours, run_config(args.config, folder, args.work_dir / ours, seed=seed))
            if theirs not in result["runs"]:
                seconds = result["runs"][ours]["seconds"]
                epochs = fit_epochs(args.hand_tuned, folder, args.work_dir / "probe", number, seconds)
                more = ["--epochs", str(epochs)]
                once = [f"train_cfg.val_interval={epochs}"]
                work_dir = args.work_dir / theirs
                values = run_config(args.hand_tuned, folder, work_dir, *more, seed=seed, options=once)
                write_result(result, args.json, theirs, values | {"epochs": epochs})
    print(json.dumps(result, indent=2))


def take_images(data: Path, target: Path, number: int) -> Path:
    """Write annotations of that many training images, spread evenly, and of all validation images; link the images."""
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        content, images = read_split(data, split)
        if split == "train":
            content = keep_images(content, number)
        (target / f"instances_{split}.json").write_text(json.dumps(content))
        link = target / split
        if not link.exists():
            link.symlink_to(images.resolve())
    return target


def keep_images(content: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the annotations of ``number`` images, spread evenly over the list."""
    images = content["images"]
    if number > len(images):
        raise SystemExit(f"There are {len(images)} training images, fewer than {number}.")
    kept = [images[place * len(images) // number] for place in range(number)]
    ids = {image["id"] for image in kept}
    annotations = [item for item in content["annotations"] if item["image_id"] in ids]
    return dict(content, images=kept, annotations=annotations)


def fit_epochs(config: str, folder: Path, work_dir: Path, number: int, seconds: float) -> int:
    """Return how many epochs of a config take the processor seconds, by two short runs."""
    more = 1 + max(round(PROBED_STEPS * BATCH_SIZE / number), 1)
    taken = []
    for epochs in (1, more):
        start = seconds_of_children()
        command(
            *("tools/train.py", config, "--data", str(folder), "--work-dir", str(work_dir), "--epochs", str(epochs)),
            *("--cfg-options", *WITHOUT_EVALUATION),
        )
        taken.append(seconds_of_children() - start)
    per_epoch = max((taken[1] - taken[0]) / (more - 1), 1e-3)
    return max(round(1 + (seconds - taken[0]) / per_epoch), 1)


if __name__ == "__main__":
    main()
