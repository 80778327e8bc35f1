"""AP after one epoch of fine-tuning a detector of other classes: with its class rows, without, and from a backbone.

python -m benchmarks.finetuning_gain --json benchmarks/results/finetuning_gain.json [--nuclei DIR]

The Mask R-CNN of configs/demo is trained on four of the six classes of shapes. It is then fine-tuned on all six classes
and, with ``--nuclei``, on other data: a folder in COCO format with a class that is not a shape. Three starts are
compared with three seeds each, which determine new weights, order and augmentation: ``rows`` (--init-from the
detector), ``no rows`` (the same file without its class names, so all layers that depend on the classes are new) and
``backbone`` (the backbone that was pre-trained on single shapes). Runs already in the result file are skipped.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks.pretraining_gain import CONFIGS, METRICS, command, measure
from convnext_dense.checkpoints import read_checkpoint

SHAPES = "data/shapes"
FOUR = ("circle", "square", "triangle", "star")
DETECTOR = "mask_rcnn_convnext_atto_shapes"
OTHER = "mask_rcnn_convnext_atto_scratch"
# One epoch of the config's own schedule: unchanged warm-up, and the cosine down to its end.
ONE_EPOCH = ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", "param_scheduler.1.end=1"]


def main() -> None:
    """Parse the arguments, run what is missing, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/finetuning_gain"), help="default: %(default)s")
    parser.add_argument("--nuclei", metavar="DIR", help="folder with other data in COCO format")
    parser.add_argument("--json", type=Path, required=True, help="file for the result, written after every run")
    args = parser.parse_args()
    command("tools/make_shapes.py", SHAPES)
    command("tools/make_shapes.py", "data/shapes_crops", "--layout", "crops", "--num-train", "3000", "--num-val", "600")
    four = keep_classes(Path(SHAPES), args.work_dir / "four", FOUR)
    result = json.loads(args.json.read_text()) if args.json.is_file() else {"runs": {}}

    def train(name: str, config: str, arguments: Sequence[str], options: Sequence[str] = ()) -> Path:
        work_dir = args.work_dir / name
        given = [*arguments, "--cfg-options", *options] if options else list(arguments)
        measure(result, args.json, config, work_dir, given, METRICS, summarise)
        return work_dir

    pretraining = args.work_dir / "backbone"
    measure(result, args.json, "pretrain_convnext_atto_shapes", pretraining, [], ("accuracy/top1",), summarise)
    weights = pretraining / "epoch_5.pth"
    detector = plug_weights(DETECTOR, weights, args.work_dir)
    four_classes = train("four_classes", detector, ["--data", str(four)]) / "epoch_6.pth"
    compare(train, args.seeds, name="shapes", config=detector, data=SHAPES, start=four_classes)
    if args.nuclei:
        other = plug_weights(OTHER, weights, args.work_dir)
        compare(train, args.seeds, name="nuclei", config=other, data=args.nuclei, start=four_classes)
    print(json.dumps(result, indent=2))


def compare(train, seeds: Sequence[int], *, name: str, config: str, data: str, start: Path) -> None:
    """Train one epoch per start and seed; every run starts with the pre-trained backbone."""
    nameless = start.with_name("nameless.pth")
    torch.save(dict(state_dict=read_checkpoint(start)["state_dict"]), nameless)
    for seed in seeds:
        options = [*ONE_EPOCH, f"randomness.seed={seed}"]
        train(f"{name} rows {seed}", config, ["--data", data, "--init-from", str(start)], options)
        train(f"{name} no rows {seed}", config, ["--data", data, "--init-from", str(nameless)], options)
        train(f"{name} backbone {seed}", config, ["--data", data], options)


def plug_weights(config: str, weights: Path, folder: Path) -> str:
    """Write a config with pre-trained backbone weights, and return its path without the suffix."""
    path = folder.resolve() / f"{config}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    init_cfg = f'dict(_delete_=True, type="Pretrained", checkpoint="{weights.resolve()}")'
    base = (CONFIGS / f"{config}.py").resolve()
    path.write_text(f'_base_ = "{base}"\nmodel = dict(backbone=dict(init_cfg={init_cfg}))\n')
    return str(path.with_suffix(""))


def keep_classes(source: Path, target: Path, names: Sequence[str]) -> Path:
    """Link a folder's images, and write its annotations of the named classes only."""
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        content = json.loads((source / f"annotations/instances_{split}2017.json").read_text())
        content["categories"] = [category for category in content["categories"] if category["name"] in names]
        kept = {category["id"] for category in content["categories"]}
        content["annotations"] = [item for item in content["annotations"] if item["category_id"] in kept]
        (target / f"instances_{split}.json").write_text(json.dumps(content))
        link = target / split
        if not link.exists():
            link.symlink_to((source / f"{split}2017").resolve())
    return target


def summarise(runs: dict) -> dict:
    """Return mean and standard deviation over seeds, per start and metric."""
    summary = {}
    for start in dict.fromkeys(name.rpartition(" ")[0] for name in runs if " " in name):
        mine = [values for name, values in runs.items() if name.rpartition(" ")[0] == start]
        for metric in METRICS:
            values = [item[metric] for item in mine]
            spread = stdev(values) if len(values) > 1 else None
            summary[f"{start} {metric}"] = {"mean": mean(values), "deviation": spread, "seeds": len(values)}
    return summary


if __name__ == "__main__":
    main()
