"""A model in every export format beside PyTorch: metric, time per image, start-up, memory and file size.

python -m benchmarks.exporting CONFIG CHECKPOINT --name nuclei --int8 TRAIN_IMAGES

Every format is exported by tools/export.py with ``--check-data``: the metrics are of the whole validation data. Times
are of single images from the file to the result, in a process of their own: processor time, mean over the images after
one that does not count, with one and with two threads. Start-up is from the start of Python to the first result.
docs/export.md has the table; it is written again from the results each time.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "exporting.json", ROOT / "docs" / "export.md"
BEGIN, END = "<!-- made by python -m benchmarks.exporting -->", "<!-- end -->"
WAYS = ("pytorch", "pytorch compiled", "onnx", "openvino", "torch", "onnx int8", "openvino int8")
METRICS = ("coco/bbox_mAP", "coco/segm_mAP", "mIoU", "accuracy/top1")


def main() -> None:
    """Export, measure, and write the result and the table; or measure one way in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--name", help="of the model and its data in the table")
    parser.add_argument("--int8", nargs="+", help="images that show the model what is usual")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/exporting"))
    parser.add_argument("--images", nargs="+", help="images to time; by default the first of the validation data")
    parser.add_argument("--measure", metavar="WAY", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.config, args.checkpoint, args.images)))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for way in args.ways:
        results.setdefault(args.name, {})[way] = run(way, args)
        results[args.name]["date"], results[args.name]["cpu"] = str(date.today()), _cpu()
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write_page(results)
        print(args.name, way, results[args.name][way], flush=True)


def run(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Export in one way, unless it is PyTorch's own, and measure it in processes of their own."""
    folder = args.work_dir / args.name.replace(" ", "_") / way.replace(" ", "_")
    found: dict[str, Any] = {}
    if not way.startswith("pytorch"):
        command = [sys.executable, "tools/export.py", args.config, args.checkpoint, str(folder), "--check-data"]
        command += ["--format", way.split()[0]]
        if way.endswith("int8"):
            command += ["--int8", *args.int8]
        start = time.time()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        facts = json.loads((folder / "model.json").read_text())
        metrics = facts["int8"]["metrics"] if "int8" in facts else facts["parity"]["metrics"]
        found = dict(
            export_seconds=round(time.time() - start),
            metrics={name: values[1] for name, values in metrics.items()},
            parity={name: value for name, value in facts["parity"].items() if name != "metrics"},
            megabytes=sum((folder / name).stat().st_size for name in facts["sha256"]) / 1e6,
        )
        if "int8" not in facts:
            found["pytorch_metrics"] = {name: values[0] for name, values in facts["parity"]["metrics"].items()}
    else:
        found["megabytes"] = os.stat(args.checkpoint).st_size / 1e6
    for threads in (1, 2):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONPATH=str(ROOT))
        command = [sys.executable, "-m", "benchmarks.exporting", args.config, args.checkpoint, "--measure"]
        command += [way if way.startswith("pytorch") else str(folder), "--images", *args.images]
        start = time.time()
        out = subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
        taken = time.time() - start
        one = json.loads(out.splitlines()[-1])
        found[f"ms_{threads}"] = one["ms"]
        if threads == 1:
            found |= dict(start_seconds=round(taken - one["loop_seconds"], 2), peak_megabytes=one["peak_megabytes"])
    return found


def measure(way: str, config: str, checkpoint: str, images: Sequence[str]) -> dict[str, float]:
    """Time single images in this process: processor milliseconds, and the seconds after the first image."""
    predict = _pytorch(way, config, checkpoint) if way.startswith("pytorch") else _exported(Path(way))
    predict(images[0])
    start, wall = time.process_time(), time.time()
    for image in images[1:]:
        predict(image)
    taken = time.process_time() - start
    return dict(ms=1e3 * taken / len(images[1:]), loop_seconds=time.time() - wall, peak_megabytes=_peak_megabytes())


def _peak_megabytes() -> float:
    """Return the most memory that this process had; ``getrusage`` counts that of the process that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def _exported(folder: Path) -> Callable[[str], Any]:
    sys.path.insert(0, str(folder))
    from runtime import load_exported  # the file that lies beside the model

    model = load_exported(folder, threads=int(os.environ["OMP_NUM_THREADS"]))
    return lambda image: model.predict([image])


def _pytorch(way: str, config: str, checkpoint: str) -> Callable[[str], Any]:
    import torch

    from convnext_dense.inference import Predictor

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    predictor = Predictor(config, checkpoint, device="cpu")
    if way.endswith("compiled"):
        predictor.model.backbone = torch.compile(predictor.model.backbone)
    return lambda image: list(predictor.iterate([image]))


def write_page(results: dict[str, Any]) -> None:
    """Replace the tables between the two markers in docs/export.md."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    tables = "\n\n".join(table(name, ways) for name, ways in results.items())
    PAGE.write_text(f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}")


def table(name: str, ways: dict[str, Any]) -> str:
    """Return the table of one model as Markdown."""
    shown = [metric for metric in METRICS if any(metric in ways.get(way, {}).get("metrics", {}) for way in WAYS)]
    heads = ["", *shown, "ms, 1 thread", "of PyTorch", "ms, 2 threads", "start, s", "peak, MB", "file, MB"]
    reference = next((ways[way]["pytorch_metrics"] for way in WAYS if "pytorch_metrics" in ways.get(way, {})), {})
    rows = [heads, ["---"] * len(heads)]
    base = ways.get("pytorch", {}).get("ms_1")
    for way in WAYS:
        if way not in ways:
            rows.append([way, *["not measured"] * (len(heads) - 1)])
            continue
        one = ways[way]
        metrics = reference if way == "pytorch" else one.get("metrics", {})
        numbers = [f"{metrics[metric]:.4f}" if metric in metrics else "" for metric in shown]
        ratio = f"{one['ms_1'] / base:.2f}" if base else ""
        numbers += [f"{one['ms_1']:.0f}", ratio, f"{one['ms_2']:.0f}", f"{one['start_seconds']:.1f}"]
        peak = f"{one['peak_megabytes']:.0f}" if "peak_megabytes" in one else "not measured"
        rows.append([way, *numbers, peak, f"{one['megabytes']:.1f}"])
    title = f"**{name}** ({ways['cpu']}, {ways['date']})"
    return "\n".join([title, "", *("| " + " | ".join(row) + " |" for row in rows)])


def _cpu() -> str:
    from benchmarks.yolo import cpu_name

    return cpu_name()


if __name__ == "__main__":
    main()
