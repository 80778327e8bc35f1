"""A model in every export format beside PyTorch: metric, time per image, start-up, memory and file size.

python -m benchmarks.exporting CONFIG CHECKPOINT --name nuclei --data NUCLEI --int8 TRAIN_IMAGES --images IMAGES

Every format is exported by tools/export.py with ``--check-data``: the metrics are of the whole validation data. Times
are of single images from the file to the result, in a process of their own, after all images have run once: processor
time, mean over the images, with one and with two threads. All ways take turns, and the least of the rounds counts.
Start-up is from the start of Python to the first result. docs/export.md has the table, which is written again from the
results each time. Models that were exported before are measured as they are.
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
ROUNDS = 3
METRICS = ("coco/bbox_mAP", "coco/segm_mAP", "mIoU", "accuracy/top1")


def main() -> None:
    """Export, measure, and write the result and the table; or measure one way in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--name", help="of the model and its data in the table")
    parser.add_argument("--data", help="folder of your own data, instead of the config's")
    parser.add_argument("--int8", nargs="+", help="images that show the model what is usual")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/exporting"))
    parser.add_argument("--images", nargs="+", required=True, help="images to time")
    parser.add_argument("--measure", metavar="WAY", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.config, args.checkpoint, args.images)))
        return
    from benchmarks.timing import cpu_name  # imports torch, which exported models are measured without

    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found = {way: export(way, args) for way in args.ways}
    for number in range(ROUNDS):
        for way in args.ways:
            for threads in (1, 2):
                add_times(found[way], threads, run_measurement(way, threads, args))
            print(f"Round {number + 1} of {ROUNDS}: {way} {found[way]['ms_1']:.1f} ms", flush=True)
    results[args.name] = dict(found, date=str(date.today()), cpu=cpu_name())
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_page(results)


def export(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Export in one way, unless that was done before or it is PyTorch's own; return what does not depend on time."""
    if way.startswith("pytorch"):
        return dict(megabytes=os.stat(args.checkpoint).st_size / 1e6)
    folder = folder_of(way, args)
    if not (folder / "model.json").is_file():
        command = [sys.executable, "tools/export.py", args.config, args.checkpoint, str(folder), "--check-data"]
        command += ["--format", way.split()[0]]
        if args.data:
            command += ["--data", args.data]
        if way.endswith("int8"):
            command += ["--int8", *args.int8]
        subprocess.run(command, check=True, cwd=ROOT)
    facts = json.loads((folder / "model.json").read_text())
    metrics = facts["int8"]["metrics"] if "int8" in facts else facts["parity"]["metrics"]
    found = dict(
        metrics={name: values[1] for name, values in metrics.items()},
        parity={name: value for name, value in facts["parity"].items() if name != "metrics"},
        megabytes=sum((folder / name).stat().st_size for name in facts["sha256"]) / 1e6,
    )
    if "int8" not in facts:
        found["pytorch_metrics"] = {name: values[0] for name, values in facts["parity"]["metrics"].items()}
    return found


def folder_of(way: str, args: argparse.Namespace) -> Path:
    """Return the folder of an exported model."""
    return args.work_dir.resolve() / args.name.replace(" ", "_") / way.replace(" ", "_")


def run_measurement(way: str, threads: int, args: argparse.Namespace) -> dict[str, float]:
    """Measure one way in a process of its own."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "benchmarks.exporting", args.config, args.checkpoint, "--measure"]
    command += [way if way.startswith("pytorch") else str(folder_of(way, args)), "--images", *args.images]
    start = time.time()
    out = subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
    one = json.loads(out.splitlines()[-1])
    return dict(one, start_seconds=one["first_result"] - start)


def add_times(found: dict[str, Any], threads: int, one: dict[str, float]) -> None:
    """Keep the least of all rounds: other processes only add."""
    values = {f"ms_{threads}": one["ms"]}
    if threads == 1:
        values |= {name: one[name] for name in ("start_seconds", "peak_megabytes")}
    for name, value in values.items():
        found[name] = min(found.get(name, value), value)


def measure(way: str, config: str, checkpoint: str, images: Sequence[str]) -> dict[str, float]:
    """Time single images in this process, once all have run: processor milliseconds, and when the first was done."""
    predict = _pytorch(way, config, checkpoint) if way.startswith("pytorch") else _exported(Path(way))
    predict(images[0])
    first_result = time.time()
    for image in images:
        predict(image)
    start = time.process_time()
    for image in images:
        predict(image)
    taken = time.process_time() - start
    return dict(ms=1e3 * taken / len(images), first_result=first_result, peak_megabytes=_peak_megabytes())


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
        if way not in ways:  # not measured
            continue
        one = ways[way]
        metrics = reference if way == "pytorch" else one.get("metrics", {})
        numbers = [f"{metrics[metric]:.4f}" if metric in metrics else "" for metric in shown]
        ratio = f"{one['ms_1'] / base:.2f}" if base else ""
        numbers += [f"{one['ms_1']:.0f}", ratio, f"{one['ms_2']:.0f}", f"{one['start_seconds']:.1f}"]
        rows.append([way, *numbers, f"{one['peak_megabytes']:.0f}", f"{one['megabytes']:.1f}"])
    title = f"**{name}** ({ways['cpu']}, {ways['date']})"
    return "\n".join([title, "", *("| " + " | ".join(row) + " |" for row in rows)])


if __name__ == "__main__":
    main()
