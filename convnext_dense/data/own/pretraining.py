"""Points a config for pre-training without labels at any folder of images, and checks them before the run."""

import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from convnext_dense.config.datasets import SPLIT_FOLDERS, TRAINING_SPLITS, loaded_datasets
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.image_folder import class_folders
from convnext_dense.data.opened_images import inspect_images
from convnext_dense.data.shards import IMAGE_KEYS, ImageShards
from convnext_dense.data.unlabelled_images import nested_images
from convnext_dense.errors import UserError

LAYOUT = "    DIR/*.jpg, at any depth, or DIR/*.tar (WebDataset)"
# Where exports of annotated data have the images of their splits; the first folder that is there is read.
_PARENTS = ("", "images")


def use_images(
    cfg: Config,
    folder: str | os.PathLike,
    classes: Sequence[str] | None = None,
    trained: Sequence[str] | None = None,
    *,
    splits: Mapping[str, str] = TRAINING_SPLITS,
) -> list[str]:
    """Let a config learn from all images of a folder and its sub-folders, of any layout; keep the transforms.

    See ``tasks.use_folder``. A folder with a train split gives that split alone: the others may be needed to measure.

    Returns:
        No class names.

    Raises:
        UserError: The folder is missing or has no image, or ``classes`` are given.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--data {root} is not a folder. Expected:\n{LAYOUT}")
    if classes:
        raise UserError("--classes is not for pre-training without labels: no image has a class.")
    for loader, dataset in loaded_datasets(cfg, [name for name in splits if name == "train"]):
        for key in ("root", "shards", "num_images", "classes", "shuffle_buffer"):
            dataset.pop(key, None)
        shards = sorted(map(str, root.glob("*.tar")))
        if shards:
            dataset.update(type="convnext_dense.ImageShards", shards=shards, classes=None)
            dataset.num_images = sum(map(_count_images, shards))
            cfg[f"{loader}_dataloader"].sampler = None
        else:
            dataset.update(type="convnext_dense.UnlabelledImages", root=str(training_folder(root)))
            cfg[f"{loader}_dataloader"].sampler = dict(type="DefaultSampler", shuffle=True)
    return []


def training_folder(root: Path) -> Path:
    """Return the folder of the training images in a folder: that of its train split, or the folder itself."""
    for parent in _PARENTS:
        if (root / parent).is_dir():
            names = {name.lower(): name for name in class_folders(root / parent)}
            for split in (*SPLIT_FOLDERS["train"], "train2017"):
                if split in names:
                    found = root / parent / names[split]
                    return found / "images" if (found / "images").is_dir() else found
    return root


def is_plain(folder: Path) -> bool:
    """Whether a folder is read as it is, which all are."""
    return True


def splits_of_images(folder: str | os.PathLike) -> list[str]:
    """Return the splits that pre-training reads: ``'train'`` alone."""
    return ["train"]


def check_images(cfg: Config, loaders: Sequence[str], inspection: Inspection) -> None:
    """Open a sample of the images that will be read.

    Args:
        cfg: The config of the run.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` will be used.
        inspection: Collects the findings, and one sentence per data set.
    """
    for loader, dataset in loaded_datasets(cfg, loaders):
        try:
            if "shards" in dataset:
                shards = ImageShards(**{key: value for key, value in dataset.items() if key != "type"})
                inspection.lines.append(
                    f"Images of {loader}: {dataset.num_images} in {len(shards.shards)} shards, without labels."
                )
            elif "root" in dataset:
                _inspect(dataset, loader, inspection)
        except UserError as error:
            inspection.error("images", str(error))


def _inspect(dataset: ConfigDict, loader: str, inspection: Inspection) -> None:
    files = nested_images(dataset.root)
    inspection.lines.append(f"Images of {loader}: {len(files)} in {dataset.root}, without labels.")
    inspect_images(files, inspection, dataset)


def _count_images(shard: str) -> int:
    try:
        with tarfile.open(shard) as archive:
            return sum(member.name.rpartition(".")[2].lower() in IMAGE_KEYS for member in archive)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"Shard {shard} is truncated or not a tar file: {error}. Copy it again.") from error
