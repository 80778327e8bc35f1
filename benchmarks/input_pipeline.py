"""Images per second and core of our image folder and of timm's own loader, with the same images and transforms.

python -m benchmarks.input_pipeline --json benchmarks/results/input_pipeline.json

Both produce batches of normalised float tensors; timm uses create_dataset and create_loader without its prefetcher.
Both read at the same time with one worker each. The CPU time of the workers is measured, which decode and transform the
images, so other programs on the machine slow down both alike.
RandAugment's magnitude is fixed, because timm's loader would fail where it keeps no bit (see data/transforms.py).
The images are generated JPEGs of ImageNet's usual 500 x 375 pixels, in the page cache.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import timm
import torch
from PIL import Image

from benchmarks.timing import cpu_name

SIZES = dict(width=500, height=375)
BATCH = 32
RECIPE = dict(
    input_size=224,
    is_training=True,
    color_jitter=0.4,
    auto_augment="rand-m9-inc1",
    interpolation="bicubic",
    re_prob=0.25,
    re_mode="pixel",
    re_count=1,
)


def main() -> None:
    """Parse the arguments, measure, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="number of processes (default: %(default)s)")
    parser.add_argument("--images", type=int, default=640, help="images per process (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--measure", nargs=2, metavar=("FIRST", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    rates: dict[str, list[float]] = {reader: [] for reader in READERS}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), args.images)
        for turn in range(args.repeats):
            first = list(READERS)[turn % 2]
            command = [sys.executable, "-m", "benchmarks.input_pipeline", "--measure", first, folder]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for reader, rate in json.loads(output).items():
                rates[reader].append(rate)
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["timm"], strict=True)]
    result = {
        "images_per_second_and_core": {reader: round(median(values), 1) for reader, values in rates.items()},
        "ratio": round(median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "all": {reader: [round(value, 1) for value in values] for reader, values in rates.items()},
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def write_images(folder: Path, count: int) -> None:
    """Write smooth random JPEGs in two classes."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / str(index % 2) / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        coarse.resize(tuple(SIZES.values()), Image.Resampling.BICUBIC).save(path, quality=90)


def measure(first: str, folder: str) -> dict[str, float]:
    """Read with both loaders at once, batch by batch in turns; return images per CPU second of each worker."""
    torch.set_num_threads(1)
    order = sorted(READERS, key=lambda reader: reader != first)
    loaders, workers = {}, {}
    for reader in order:
        before = set(multiprocessing.active_children())
        loaders[reader] = iter(READERS[reader](folder))
        (workers[reader],) = set(multiprocessing.active_children()) - before
        next(loaders[reader])
    start = {reader: cpu_seconds(worker.pid) for reader, worker in workers.items()}
    # Batches are prefetched by two; the workers must still be working when their clocks are read.
    num_batches = len(loaders[first]) - 4
    for _ in range(num_batches):
        for reader in order:
            next(loaders[reader])
    return {
        reader: num_batches * BATCH / (cpu_seconds(worker.pid) - start[reader]) for reader, worker in workers.items()
    }


def our_loader(folder: str) -> torch.utils.data.DataLoader:
    """Build the loader that mmengine's Runner builds from configs/_base_/datasets/imagenet_1k.py, with one worker."""
    from mmengine.runner import Runner

    dataset = dict(type="convnext_dense.ImageFolder", root=folder, transform=RECIPE, max_corrupt_rate=1e-4)
    return Runner.build_dataloader(
        dict(
            batch_size=BATCH,
            num_workers=1,
            drop_last=True,
            sampler=dict(type="DefaultSampler", shuffle=True),
            collate_fn=dict(type="default_collate"),
            dataset=dataset,
        ),
        seed=0,
    )


def timm_loader(folder: str) -> torch.utils.data.DataLoader:
    """Build timm's loader with the same settings."""
    from timm.data import create_dataset, create_loader

    settings = {key: value for key, value in RECIPE.items() if key not in ("input_size", "is_training")}
    return create_loader(
        create_dataset("", root=folder, is_training=True),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=False,
        num_workers=1,
        **settings,
    )


def cpu_seconds(pid: int | None) -> float:
    """Return the CPU time of a process, on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime: fields 14 and 15 of the line


READERS = {"ours": our_loader, "timm": timm_loader}


if __name__ == "__main__":
    main()
