"""What tools/zoo.py does with entries of the zoo."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from convnext_dense.checkpoints import Checkpoint, ZooEntry, find_entry
from convnext_dense.checkpoints.digests import hash_file
from convnext_dense.checkpoints.zoo import PREFIX
from convnext_dense.config.reading import read_config
from convnext_dense.description.dense import build_on_meta
from convnext_dense.description.markdown import format_table
from convnext_dense.description.zoo_table import describe_numbers
from convnext_dense.engine import evaluate_model
from convnext_dense.errors import UserError
from convnext_dense.models import ConvNeXt, IsotropicConvNeXt
from convnext_dense.shipped import shipped_name

# Published metric -> metric of a test, and what makes a percentage of it.
_METRICS = {
    "box AP": ("coco/bbox_mAP", 100),
    "mask AP": ("coco/segm_mAP", 100),
    "mIoU": ("mIoU", 1),
    "top-1": ("accuracy/top1", 100),
}
_TTA_METRICS = {"mIoU, multi-scale and flip": ("mIoU", 1)}
_DATA_OPTIONS: Mapping[str, Callable[[str], dict[str, str]]] = {
    "detection": lambda folder: {
        "test_dataloader.dataset.data_root": folder,
        "test_evaluator.ann_file": str(Path(folder, "annotations/instances_val2017.json")),
    },
    "segmentation": lambda folder: {"test_dataloader.dataset.data_root": folder},
    "classification": lambda folder: {"test_dataloader.dataset.root": folder},
}


def show_entry(entry: ZooEntry) -> str:
    """Return all that is known of an entry, one line each."""
    model = entry.config or ", ".join(f"{name}={value!r}" for name, value in entry.backbone.items())
    lines = {
        "name": entry.name,
        "task": entry.task,
        "config" if entry.config else "backbone": model,
        "address": entry.address,
        "size": "not known" if entry.size is None else f"{entry.size} bytes",
        "sha256": entry.sha256 or (f"{entry.sha256_prefix}..." if entry.sha256_prefix else "not known"),
        "layout": entry.layout,
        "licence": entry.licence + (f", to be accepted at {entry.page}" if entry.gated else ""),
        "published": describe_numbers(entry.published) or "no number",
        "measured": describe_numbers(entry.measured or {}) or "not measured",
        "source": entry.source,
    }
    return "\n".join(f"{name + ':':<11}{value}" for name, value in lines.items())


def fetch_entry(entry: ZooEntry) -> str:
    """Download an entry, and return the path of the file, its sha256, and how it fills the model of the entry."""
    checkpoint = Checkpoint(f"{PREFIX}{entry.name}")
    assert checkpoint.path is not None  # it was read from a file
    lines = [str(checkpoint.path), f"sha256 {hash_file(checkpoint.path)}"]
    report, _ = checkpoint.fit(build_model(entry).state_dict())
    report.raise_if_incomplete()
    lines.append(str(report))
    return "\n".join(lines)


def build_model(entry: ZooEntry) -> torch.nn.Module:
    """Build the model that the weights of an entry fill, on the meta device."""
    if entry.config is not None:
        return build_on_meta(read_config(shipped_name(entry.config)))
    kwargs: dict[str, Any] = dict(entry.backbone)
    kind = IsotropicConvNeXt if kwargs.pop("type", None) == "IsotropicConvNeXt" else ConvNeXt
    with torch.device("meta"):
        return kind(**kwargs)


def verify_entries(
    names: list[str], options: Mapping[str, Any] | None, *, data: str | None, work_dir: str, tta: bool
) -> str:
    """Evaluate entries by their configs, and return a table of the published and the measured numbers.

    Raises:
        UserError: An entry has no config, or no published number that its test measures.
    """
    metrics = _TTA_METRICS if tta else _METRICS
    entries = [find_entry(name) for name in names]
    for entry in entries:
        if entry.config is None or not entry.published.keys() & metrics.keys():
            raise UserError(
                f"zoo:{entry.name} cannot be verified{' with --tta' if tta else ''}: it has "
                f"{'no config' if entry.config is None else 'no published number of this test'}."
            )
    rows = []
    for entry in entries:
        folder = {} if data is None else _DATA_OPTIONS[entry.task](data)
        measured = evaluate_model(
            shipped_name(str(entry.config)),
            f"{PREFIX}{entry.name}",
            {**folder, **(options or {})},
            work_dir=str(Path(work_dir, entry.name)),
            tta=tta,
        )
        for metric in entry.published.keys() & metrics.keys():
            key, factor = metrics[metric]
            published, found = entry.published[metric], factor * measured[key]
            rows.append((entry.name, metric, str(published), f"{found:.2f}", f"{found - published:+.2f}"))
    return format_table(("name", "metric", "published", "measured", "difference"), sorted(rows))
