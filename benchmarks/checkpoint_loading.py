"""Memory and time of loading a checkpoint with load_weights, compared with torch.load of the same file.

python benchmarks/checkpoint_loading.py --json benchmarks/results/checkpoint_loading.json

Every measurement runs in its own process, in turns, on one thread of torch, with the file in the page cache. Memory is
the peak resident set of the process minus what it held before the model was built. load_weights fills an existing
model, checks every tensor, and starts to hash the file; its log line, which follows when that is done, is measured
separately. torch.load alone leaves its tensors in memory and fills no model.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from convnext_dense.checkpoints import convert_state_dict, load_weights
from convnext_dense.models import ConvNeXt

WAYS = ("torch.load", "torch.load and load_state_dict", "load_weights", "load_weights and its line in the log")


def main() -> None:
    """Parse the arguments, measure, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="xlarge", help="size of the generated checkpoint (default: %(default)s)")
    parser.add_argument("--layout", default="official", help="layout of the checkpoint (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="processes per way (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, arch=args.arch)))
        return
    setting = describe_setting()
    with tempfile.TemporaryDirectory() as folder:
        result = compare(write_checkpoint(Path(folder), args.arch, args.layout), args.arch, args.repeats)
    result = {"arch": args.arch, "layout": args.layout, **result, **setting}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def write_checkpoint(folder: Path, arch: str, layout: str) -> Path:
    """Write random weights of the given size and layout."""
    weights = {name: torch.randn_like(tensor) for name, tensor in build_model(arch).state_dict().items()}
    path = folder / f"{arch}.pth"
    torch.save(convert_state_dict(weights, layout), path)
    return path


def build_model(arch: str) -> ConvNeXt:
    """Build a zero-filled backbone, because random initialisation would take longer than loading."""
    with torch.device("meta"):
        model = ConvNeXt(arch, output_norms="none")
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def compare(path: Path, arch: str, repeats: int) -> dict[str, object]:
    """Measure every way several times, in turns."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            command = [sys.executable, __file__, "--arch", arch, "--measure", way, str(path)]
            runs[way].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    size = path.stat().st_size
    seconds = {way: median(run["seconds"] for run in runs[way]) for way in WAYS}
    peaks = {way: max(run["peak_bytes"] for run in runs[way]) for way in WAYS}
    return {
        "file_gb": round(size / 1e9, 3),
        "repeats": repeats,
        "median_seconds": {way: round(seconds[way], 2) for way in WAYS},
        "all_seconds": {way: [round(run["seconds"], 2) for run in runs[way]] for way in WAYS},
        "peak_over_file_size": {way: round(peaks[way] / size, 2) for way in WAYS},
        "load_weights_over_torch_load": round(seconds["load_weights"] / seconds["torch.load"], 2),
    }


def measure(way: str, path: str, *, arch: str) -> dict[str, float]:
    """Load once; return seconds, and bytes of peak memory including the model."""
    torch.set_num_threads(1)
    warm_page_cache(path)
    before = resident_bytes("VmRSS")
    model = None if way == "torch.load" else build_model(arch)
    start = time.perf_counter()
    if way.startswith("load_weights"):
        assert model is not None
        report = load_weights(model, path)
        if way != "load_weights":
            str(report)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        if model is not None:
            model.load_state_dict(weights)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": resident_bytes("VmHWM") - before}


def warm_page_cache(path: str) -> None:
    """Read the file once, piece by piece."""
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def resident_bytes(kind: str) -> int:
    """Return the current (VmRSS) or peak (VmHWM) memory on Linux; getrusage would include that of the parent."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith(f"{kind}:"))) * 1024


def describe_setting() -> dict[str, object]:
    """Return date, hardware in general terms, load by other programs, and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores, {memory / 2**30:.0f} GiB of memory",
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


if __name__ == "__main__":
    main()
