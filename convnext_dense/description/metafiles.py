"""Writes what OpenMMLab's ``mim`` reads of a package: an index, and a file per task with configs, results and weights.

Source: https://github.com/open-mmlab/mim/blob/main/docs/en/metafile.md (the format)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from convnext_dense.checkpoints import ZooEntry, read_zoo

INDEX = "convnext_dense/.mim/model-index.yml"
_HEAD = "# Written by python tools/write_docs.py from convnext_dense/checkpoints/zoo.json.\n"
_PAPER = dict(Title="A ConvNet for the 2020s", URL="https://arxiv.org/abs/2201.03545")
# Task of the zoo -> of mim, and its data set.
_TASKS = {
    "detection": ("Object Detection", "COCO"),
    "segmentation": ("Semantic Segmentation", "ADE20K"),
    "classification": ("Image Classification", "ImageNet-1k"),
}


def write_metafiles(root: Path) -> list[Path]:
    """Write the index and the metafiles of a repository, and return their paths."""
    files = {f"configs/{task}/metafile.yml": metafile(task) for task in _TASKS}
    index = dict(Import=list(files))
    written = {INDEX: index, **files}
    for name, content in written.items():
        text = _HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        (root / name).write_text(text, encoding="utf-8")
    return [root / name for name in written]


def metafile(task: str) -> dict[str, Any]:
    """Return the content of a task's metafile: one model per entry of the zoo that has a config."""
    entries = [entry for entry in read_zoo().values() if entry.config and entry.task == task]
    collection = dict(Name=f"ConvNeXt, {task}", Paper=_PAPER, Metadata=dict(Architecture=["ConvNeXt"]))
    return dict(Collections=[collection], Models=[_model(entry, collection["Name"]) for entry in entries])


def _model(entry: ZooEntry, collection: Any) -> Mapping[str, Any]:
    task, dataset = _TASKS[entry.task]
    results = [dict(Task=task, Dataset=dataset, Metrics=dict(entry.published))] if entry.published else []
    return {
        "Name": entry.name,
        "In Collection": collection,
        "Config": entry.config,
        "Metadata": {"License": entry.licence, "Source": entry.source},
        "Results": results,
        "Weights": entry.address,
    }
