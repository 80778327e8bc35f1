"""Queries of configs and their data sets that all tasks need."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

# Loader of a config -> the split of a folder that it reads in a training.
TRAINING_SPLITS = {"train": "train", "val": "val", "test": "val"}
# Split -> names of its folder in the exports of tools.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def config_dicts(node: Any) -> Iterator[Any]:
    """Yield every dict of a config, inside lists too, outer ones first."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from config_dicts(child)


def leaf_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Yield the data sets that read files, inside wrappers (repeat, concatenate, balance) too."""
    if "datasets" in dataset:
        for child in dataset.datasets:
            yield from leaf_datasets(child)
    elif "dataset" in dataset:
        yield from leaf_datasets(dataset.dataset)
    else:
        yield dataset


def loaded_datasets(cfg: Config, loaders: Iterable[str]) -> Iterator[tuple[str, ConfigDict]]:
    """Go through the data sets that read files of those loaders that a config has, each with its loader's name.

    Args:
        cfg: Any config.
        loaders: Of ``'train'``, ``'val'``, ``'test'``.
    """
    for loader in loaders:
        if cfg.get(f"{loader}_dataloader") is not None:
            for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
                yield loader, dataset


def evaluators(cfg: Config, loader: str) -> list[ConfigDict]:
    """Return the configs of the metrics of ``'val'`` or ``'test'``; there may be none."""
    found = cfg.get(f"{loader}_evaluator") or []
    return list(found) if isinstance(found, list | tuple) else [found]


def class_names(dataset: ConfigDict) -> Sequence[str] | None:
    """Return the class names of a data set's config: its own, or its type's, such as COCO's 80."""
    return (dataset.get("metainfo") or {}).get("classes") or known_class_names(dataset)


def known_class_names(dataset: ConfigDict) -> Sequence[str] | None:
    """Return the class names that a data set's type defines, such as ADE20K's 150."""
    with DATASETS.switch_scope_and_registry(None) as registry:  # the registry of the config's default scope
        return getattr(registry.get(dataset.type), "METAINFO", {}).get("classes")


def leads_out(name: str) -> bool:
    """Whether a file name from a list or annotation file leads out of the folder that it is relative to."""
    return ".." in re.split(r"[/\\]", name) or re.match(r"[/\\]|[A-Za-z]:[/\\]", name) is not None


def quote(names: Sequence[str], limit: int = 10) -> str:
    """Quote up to ``limit`` names for a message."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more
