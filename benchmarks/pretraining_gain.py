"""AP of the demo detector, trained from random weights and from a backbone pre-trained on single shapes.

python -m benchmarks.pretraining_gain --seeds 0 1 2 --json benchmarks/results/pretraining_gain.json

For each seed, the classifier of configs/demo and then Mask R-CNN from either start with the same schedule are trained
one after the other, each in its own process. The seed determines the weights, the order of images and their
augmentation; the images stay the same. Runs that the result file already contains are skipped.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks.timing import cpu_name

CONFIGS = Path("configs/demo")
PRETRAINING = "pretrain_convnext_atto_shapes"
DETECTORS = {"scratch": "mask_rcnn_convnext_atto_shapes", "pretrained": "mask_rcnn_convnext_atto_shapes_pretrained"}
METRICS = ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP", "coco/segm_mAP_50")


def main() -> None:
    """Parse the arguments, run what is missing, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("work_dirs/pretraining_gain"), help="default: %(default)s"
    )
    parser.add_argument("--json", type=Path, required=True, help="file for the result, written after every run")
    args = parser.parse_args()
    command("tools/make_shapes.py", "data/shapes")
    command("tools/make_shapes.py", "data/shapes_crops", "--layout", "crops", "--num-train", "3000", "--num-val", "600")
    result = json.loads(args.json.read_text()) if args.json.is_file() else {"runs": {}}
    for seed in args.seeds:
        pretraining = args.work_dir / f"{PRETRAINING}_{seed}"
        weights = pretraining / "epoch_5.pth"
        given = ["--cfg-options", f"randomness.seed={seed}"]
        measure(result, args.json, PRETRAINING, pretraining, given, ("accuracy/top1",), summarise)
        for start, config in DETECTORS.items():
            more = [f"model.backbone.init_cfg.checkpoint={weights}"] if start == "pretrained" else []
            work_dir = args.work_dir / f"{config}_{seed}"
            measure(result, args.json, config, work_dir, [*given, *more], METRICS, summarise)
    print(json.dumps(result, indent=2))


def measure(
    result: dict,
    path: Path,
    config: str,
    work_dir: Path,
    arguments: Sequence[str],
    metrics: Sequence[str],
    summarise: Callable[[dict], dict],
) -> None:
    """Train a demo config and add its last evaluation to the result, unless the result already contains it."""
    if work_dir.name in result["runs"]:
        return
    start = time.time()
    command("tools/train.py", str(CONFIGS / f"{config}.py"), "--work-dir", str(work_dir), *arguments)
    log = max(work_dir.glob("*/vis_data/scalars.json"), key=lambda file: file.stat().st_mtime)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    values = next(record for record in reversed(records) if metrics[0] in record)
    result["runs"][work_dir.name] = {key: values[key] for key in metrics} | {"seconds": round(time.time() - start)}
    result["summary"] = summarise(result["runs"])
    result |= {"date": str(datetime.date.today()), "torch": torch.__version__, "cpu": cpu_name()}
    path.write_text(json.dumps(result, indent=2) + "\n")


def summarise(runs: dict) -> dict:
    """Return mean and standard deviation over seeds, per start and metric."""
    summary = {}
    for start, config in DETECTORS.items():
        mine = [values for name, values in runs.items() if name.rpartition("_")[0] == config]
        for metric in METRICS if mine else ():
            values = [item[metric] for item in mine]
            spread = stdev(values) if len(values) > 1 else None
            summary[f"{start} {metric}"] = {"mean": mean(values), "deviation": spread, "seeds": len(values)}
    return summary


def command(*arguments: str) -> None:
    """Run one of the tools; raise an error if it fails."""
    subprocess.run([sys.executable, *arguments], check=True)


if __name__ == "__main__":
    main()
