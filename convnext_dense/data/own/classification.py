"""Points a classification config at custom class folders, and checks the classes before the first iteration."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from convnext_dense.config.class_counts import set_num_classes
from convnext_dense.config.datasets import SPLIT_FOLDERS, TRAINING_SPLITS, loaded_datasets, quote
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.checks.split_overlap import inspect_overlap
from convnext_dense.data.conversions import read_description
from convnext_dense.data.image_folder import LAYOUT, class_folders, find_images, find_samples, read_names
from convnext_dense.data.opened_images import IMAGE_SUFFIXES, inspect_images
from convnext_dense.data.shards import ImageShards
from convnext_dense.errors import UserError


def use_image_folder(
    cfg: Config,
    folder: str | os.PathLike,
    classes: Sequence[str] | None = None,
    trained: Sequence[str] | None = None,
    *,
    splits: Mapping[str, str] = TRAINING_SPLITS,
) -> list[str]:
    """Rewrite the data sets and the head of a classification config for class folders; keep the transforms.

    See ``tasks.use_folder``. By default the classes are the folders of the first split, in natural order.

    Raises:
        UserError: A split is missing or empty, or has a folder that is not one of the classes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--data {root} is not a folder. Expected:\n{LAYOUT}")
    if (description := read_description(root)) is not None:
        return _use_lists(cfg, root, description, splits)
    there = splits_of_image_folder(root)
    names = classes or trained
    for split in dict.fromkeys(splits.values()):
        if not (root / split).is_dir():
            raise UserError(
                f"--data {root} has no folder {split}{f'; it has {quote(there)}' if there else ''}. Expected:\n{LAYOUT}"
            )
        samples, names = find_samples(root / split, names)
        if splits.get("train") == split:
            _check_batch(cfg, len(samples), str(root / split))
    assert names is not None
    for loader, dataset in loaded_datasets(cfg, splits):
        dataset.update(
            type="convnext_dense.ImageFolder",
            root=str(root / splits[loader]),
            metainfo=dict(classes=tuple(names)),
        )
        dataset.pop("ann_file", None)
        _leave_shards(cfg, loader, dataset)
    set_num_classes(cfg.model, len(names))
    return list(names)


def _leave_shards(cfg: Config, loader: str, dataset: ConfigDict) -> None:
    """Remove the arguments of ``ImageShards`` from a data set of files, and give its loader a sampler."""
    for key in ("shards", "num_images", "classes", "shuffle_buffer"):
        dataset.pop(key, None)
    if cfg[f"{loader}_dataloader"].sampler is None:
        cfg[f"{loader}_dataloader"].sampler = dict(type="DefaultSampler", shuffle=loader == "train")


def _use_lists(cfg: Config, root: Path, description: dict[str, Any], splits: Mapping[str, str]) -> list[str]:
    """Point a config at lists of images and their classes."""
    names, there = description["classes"], description["splits"]
    if missing := [name for name in dict.fromkeys(splits.values()) if name not in there]:
        raise UserError(f"The data has no {quote(missing)} split; it has {quote(list(there))}.")
    for loader, dataset in loaded_datasets(cfg, splits):
        dataset.update(
            type="convnext_dense.ImageFolder",
            root=there[splits[loader]]["images"],
            ann_file=str(root / f"{splits[loader]}.csv"),
            metainfo=dict(classes=tuple(names)),
        )
        _leave_shards(cfg, loader, dataset)
        samples, _ = find_samples(Path(dataset.root), names, dataset.ann_file)
        if loader == "train":
            _check_batch(cfg, len(samples), "The train split")
    set_num_classes(cfg.model, len(names))
    return names


def _check_batch(cfg: Config, number: int, what: str) -> None:
    """Raise ``UserError`` if there are fewer images than in a batch, unless the config fits its batch to the data."""
    if number < cfg.train_dataloader.batch_size and "finetune" not in cfg:
        raise UserError(
            f"{what} has {number} images, fewer than one batch: lower train_dataloader.batch_size="
            f"{cfg.train_dataloader.batch_size} and effective_batch."
        )


def is_plain(folder: Path) -> bool:
    """Whether a folder has class folders in a folder per split, one of which is for validation or testing."""
    found = [path for name in ("train", "val", "test") if (path := folder / name).is_dir()]
    others = [path for path in folder.iterdir() if path.is_dir() and path not in found and _is_split(path.name)]
    return (any(class_folders(path) for path in found) and not others) or not (others or list(folder.glob("*.csv")))


def _is_split(name: str) -> bool:
    return any(name.lower() in names for names in SPLIT_FOLDERS.values())


def splits_of_image_folder(folder: str | os.PathLike) -> list[str]:
    """Return which of ``'train'``, ``'val'`` and ``'test'`` a folder has; ``'test'`` only if it has class folders."""
    if (description := read_description(Path(folder))) is not None:
        return list(description["splits"])
    there = [name for name in ("train", "val", "test") if Path(folder, name).is_dir()]
    return [name for name in there if name != "test" or class_folders(Path(folder, name))]


def check_classification_data(cfg: Config, loaders: Sequence[str], inspection: Inspection) -> None:
    """Check the classes of every image folder or set of shards that will be read against the head.

    Where the check may take time, all files are listed. Otherwise that is left to the data sets, which list them when
    they are built, which is also before the first iteration.

    Args:
        cfg: The config of the run.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` will be used.
        inspection: Collects the findings, and one sentence per data set.
    """
    files: dict[str, list[Path]] = {}
    seen = set()
    for loader, dataset in loaded_datasets(cfg, loaders):
        if _key_of(dataset) in seen:
            continue
        try:
            if "shards" in dataset:
                _inspect_shards(cfg, dataset, inspection)
            elif "root" in dataset:
                seen.add(_key_of(dataset))
                files.setdefault(loader, []).extend(_inspect_folder(cfg, dataset, loader, inspection))
        except UserError as error:
            inspection.error("folders and classes", str(error))
    if inspection.takes_time:
        inspect_overlap(files, inspection)


def folder_images(cfg: Config, loaders: Sequence[str]) -> Iterator[tuple[str, list[tuple[Path, str]]]]:
    """Yield the images of every existing folder of classes that a config names, each with its class name."""
    seen = set()
    for loader, dataset in loaded_datasets(cfg, loaders):
        if "root" in dataset and _key_of(dataset) not in seen and Path(dataset.root).is_dir():
            seen.add(_key_of(dataset))
            if dataset.get("ann_file"):
                yield (
                    loader,
                    [(Path(dataset.root, name), label) for name, label in read_names(dataset.ann_file).items()],
                )
            else:
                samples, _ = find_images(Path(dataset.root))
                yield loader, [(Path(path), Path(path).parent.name) for path, _ in samples]


def _key_of(dataset: ConfigDict) -> tuple[str, str]:
    return str(dataset.get("root")), str(dataset.get("ann_file"))


def _inspect_folder(cfg: Config, dataset: ConfigDict, loader: str, inspection: Inspection) -> list[Path]:
    root = Path(dataset.root)
    listed = dataset.get("ann_file")
    folders = class_folders(root)
    given = (dataset.get("metainfo") or {}).get("classes")
    names = given or folders
    if len(names) != cfg.model.num_classes:
        raise UserError(
            f"{dataset.root} has {len(names)} classes, but the head has num_classes={cfg.model.num_classes}: "
            "name the folder with --data DIR, which sizes the head, or set model.num_classes."
        )
    if listed:
        samples, _ = find_samples(root, names, listed)
        present = {names[label] for _, label in samples}
        absent = [name for name in names if name not in present]
    else:
        absent = [name for name in names if name not in folders or not _first_image(root / name)]
    inspection.lines.append(f"Images of {loader}: {len(names) - len(absent)} classes in {dataset.root}.")
    if absent:
        finding = f"{root} has no images of {quote(absent)}"
        if loader == "train":
            inspection.warning("classes without images", f"{finding} to learn from.")
        else:
            inspection.note("classes without images", f"{finding}.", len(absent))
    if inspection.takes_time or listed:
        samples, _ = find_samples(root, names, listed)
        files = [Path(path) for path, _ in samples]
    else:
        files = [file for folder in inspection.pick(folders) for file in _first_image(root / folder)]
    inspect_images(files, inspection, dataset)
    return files


def _first_image(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        images = (Path(entry.path) for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES))
        return list(itertools.islice(images, 1))


def _inspect_shards(cfg: Config, dataset: ConfigDict, inspection: Inspection) -> None:
    shards = ImageShards(**{key: value for key, value in dataset.items() if key != "type"})
    num_classes = len(shards.metainfo["classes"])
    if num_classes != cfg.model.num_classes:
        raise UserError(
            f"The shards {dataset.shards} have {num_classes} class names, but the head has num_classes="
            f"{cfg.model.num_classes}: set model.num_classes."
        )
    if inspection.takes_time:
        images = iter(shards)
        for _ in inspection.follow(inspection.pick(range(len(shards))), f"images of {dataset.shards}"):
            next(images)
    inspection.lines.append(f"Shards {dataset.shards}: {len(shards.shards)} files, {num_classes} classes.")
