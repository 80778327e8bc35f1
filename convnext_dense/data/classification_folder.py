"""Points a classification config at class folders of one's own, and checks classes before the first iteration."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from convnext_dense.data.dataset_configs import leaf_datasets
from convnext_dense.data.image_folder import LAYOUT, class_folders, find_samples


def use_image_folder(
    cfg: Config, folder: str | os.PathLike, classes: Sequence[str] | None = None, trained: Sequence[str] | None = None
) -> list[str]:
    """Rewrites the data sets and the head of a classification config for class folders; transforms stay.

    Args:
        cfg: Changed in place. Its test split becomes the folder's ``val``.
        folder: See ``image_folder.LAYOUT``.
        classes: Class names by label. By default the folders of ``train``, in natural order.
        trained: Class names of the checkpoint that is going to be tested; then ``val`` alone is needed.

    Returns:
        The class names, by label.

    Raises:
        ValueError: A split is missing or empty, the two have different classes, or ``classes`` are not the folders.
    """
    root = Path(folder)
    splits = ("val",) if trained and not (root / "train").is_dir() else ("train", "val")
    for split in splits:
        if not (root / split).is_dir():
            raise ValueError(f"--data {root} has no folder {split}. Expected:\n{LAYOUT}")
    names = classes or trained
    for split in splits:
        samples, names = find_samples(root / split, names)
        if split == "train" and len(samples) < cfg.train_dataloader.batch_size:
            raise ValueError(
                f"{root / split} has {len(samples)} images, fewer than one batch: lower train_dataloader.batch_size="
                f"{cfg.train_dataloader.batch_size} and effective_batch."
            )
    assert names is not None
    for loader, split in (("train", "train"), ("val", "val"), ("test", "val")):
        if cfg.get(f"{loader}_dataloader") is None:
            continue
        for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
            dataset.update(
                type="convnext_dense.ImageFolder", root=str(root / split), metainfo=dict(classes=tuple(names))
            )
            for key in ("shards", "num_images", "classes", "shuffle_buffer"):  # of ImageShards
                dataset.pop(key, None)
        if cfg[f"{loader}_dataloader"].sampler is None:
            cfg[f"{loader}_dataloader"].sampler = dict(type="DefaultSampler", shuffle=loader == "train")
    cfg.model.num_classes = len(names)
    return list(names)


def is_classifier(model: ConfigDict) -> bool:
    """Whether a model's config is that of ``ImageClassifier``."""
    return str(model.get("type")).rpartition(".")[2] == "ImageClassifier"


def check_classification_data(cfg: Config, loaders: Sequence[str]) -> list[str]:
    """Holds the number of classes of every image folder that is going to be read against the head.

    The images themselves are looked for when the data sets are built, which is before the first iteration too.

    Args:
        cfg: The config of the run.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` are going to be used.

    Returns:
        One sentence per folder.

    Raises:
        ValueError: A folder is missing, or has another number of classes than the head.
    """
    lines = []
    for loader in loaders:
        if cfg.get(f"{loader}_dataloader") is None:
            continue
        for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
            if "root" not in dataset:
                continue
            folders = class_folders(Path(dataset.root))
            if len(folders) != cfg.model.num_classes:
                raise ValueError(
                    f"{dataset.root} has {len(folders)} classes, but the head has num_classes={cfg.model.num_classes}: "
                    "name the folder with --data DIR, which sizes the head, or set model.num_classes."
                )
            lines.append(f"Images of {loader}: {len(folders)} classes in {dataset.root}.")
    return lines
