"""Chooses one of a config's augmentations of training images.

A config lists them by name in ``augmentations``: the steps of a pipeline between loading and packing for detection and
segmentation, and arguments of the transform for classification.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from convnext_dense.config.datasets import leaf_datasets
from convnext_dense.config.pipelines import loads_annotations, loads_image, step_name
from convnext_dense.errors import UserError

# Transforms of mmdet and mmseg that read further images, which a wrapper of the data set gives them.
_OF_SEVERAL_IMAGES = ("CopyPaste", "MixUp", "Mosaic", "RandomMosaic")
_WRAPPER = "MultiImageMixDataset"


def use_augmentation(cfg: Config, name: str) -> None:
    """Give the training data of a config one of its ``augmentations``, in place.

    Raises:
        UserError: The config does not have it; the message lists those that it has.
    """
    known = cfg.get("augmentations") or {}
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        there = f"has {', '.join(known)}" if known else "has none"
        raise UserError(f"--augment {name} is not among the augmentations of the config, which {there}.{hint}")
    if "finetune" in cfg:
        cfg.finetune.augmentation = name
    chosen, dataset = copy.deepcopy(known[name]), cfg.train_dataloader.dataset
    if isinstance(chosen, Mapping):
        for leaf in leaf_datasets(dataset):
            leaf.transform = ConfigDict(chosen)
        return
    steps = _between(_whole_pipeline(dataset), chosen)
    cfg.train_dataloader.dataset = _set_steps(dataset, steps)


def _whole_pipeline(dataset: ConfigDict) -> list[Any]:
    """Return the steps that an image goes through, inside a wrapper and in it."""
    inner = next(leaf_datasets(dataset)).pipeline
    return [*inner, *dataset.pipeline] if step_name(dataset) == _WRAPPER else list(inner)


def _between(pipeline: Sequence[Any], steps: Sequence[Any]) -> list[Any]:
    loading = [step for step in pipeline if loads_image(step) or loads_annotations(step)]
    packing = [step for step in pipeline if step_name(step).startswith("Pack")]
    return [*loading, *steps, *packing]


def _set_steps(dataset: ConfigDict, steps: list[Any]) -> ConfigDict:
    """Give a data set these steps, from the first one that reads further images on in a wrapper, which gives them."""
    if step_name(dataset) == _WRAPPER:
        dataset = dataset.dataset
    first = next((place for place, step in enumerate(steps) if step_name(step) in _OF_SEVERAL_IMAGES), None)
    for leaf in leaf_datasets(dataset):
        leaf.pipeline = steps[:first]
    return dataset if first is None else ConfigDict(type=_WRAPPER, dataset=dataset, pipeline=steps[first:])
