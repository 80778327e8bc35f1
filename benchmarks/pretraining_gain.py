"""AP of the demo detector from random weights and from the backbone pre-trained on single shapes.

python benchmarks/pretraining_gain.py --seeds 0 1 2 --json benchmarks/results/pretraining_gain.json

Per seed: the classifier of configs/demo, and Mask R-CNN with the same schedule from either start, one after the other,
each in a process of its own. The seed draws the weights, the order of images and their augmentation; the images are the
same. What the result file already has is not run again.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

CONFIGS = Path("configs/demo")
PRETRAINING = "pretrain_convnext_atto_shapes"
DETECTORS = {"scratch": "mask_rcnn_convnext_atto_shapes", "pretrained": "mask_rcnn_convnext_atto_shapes_pretrained"}
METRICS = ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP", "coco/segm_mAP_50")


def main() -> None:
    """Read the arguments, run what is missing, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("work_dirs/pretraining_gain"), help="default: %(default)s"
    )
    parser.add_argument("--json", type=Path, required=True, help="where to write the result, after every run")
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
    """Train a demo config, unless the result has it, and add its last evaluation to the result."""
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
    """Mean and standard deviation over seeds, per start and metric."""
    summary = {}
    for start, config in DETECTORS.items():
        mine = [values for name, values in runs.items() if name.rpartition("_")[0] == config]
        for metric in METRICS if mine else ():
            values = [item[metric] for item in mine]
            spread = stdev(values) if len(values) > 1 else None
            summary[f"{start} {metric}"] = {"mean": mean(values), "deviation": spread, "seeds": len(values)}
    return summary


def command(*arguments: str) -> None:
    """Run one of the tools; stop when it does."""
    subprocess.run([sys.executable, *arguments], check=True)


def cpu_name() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
