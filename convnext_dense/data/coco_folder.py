"""Points a detection config at a folder of one's own in COCO format, and sizes its heads to the classes there."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from convnext_dense.data.class_counts import set_num_classes
from convnext_dense.data.coco_config import use_coco_objects
from convnext_dense.data.dataset_configs import leads_out, leaf_datasets
from convnext_dense.data.opened_images import pixel_limit
from convnext_dense.data.text_files import read_json

LAYOUT = """\
    DIR/train/*.jpg  DIR/instances_train.json  DIR/val/*.jpg  DIR/instances_val.json
or COCO's own:
    DIR/train2017/*.jpg  DIR/val2017/*.jpg  DIR/annotations/instances_train2017.json  (and instances_val2017.json)"""


class Split(NamedTuple):
    """Where a split's annotations and images are, relative to the folder."""

    annotations: str
    images: str


_LAYOUTS = {
    "train": (
        Split("instances_train.json", "train"),
        Split("annotations/instances_train2017.json", "train2017"),
        Split("annotations/instances_train.json", "train"),
    ),
    "val": (
        Split("instances_val.json", "val"),
        Split("annotations/instances_val2017.json", "val2017"),
        Split("annotations/instances_val.json", "val"),
    ),
}


def use_coco_folder(
    cfg: Config, folder: str | os.PathLike, classes: Sequence[str] | None = None, trained: Sequence[str] | None = None
) -> list[str]:
    """Rewrites the data sets, evaluators and heads of a detection config for a folder in COCO format.

    Args:
        cfg: Changed in place. Its test split becomes the folder's ``val``.
        folder: See ``LAYOUT``.
        classes: Not taken here: the annotation files have the names.
        trained: Not needed here.

    Returns:
        The class names, in the order of the annotation file.

    Raises:
        ValueError: The folder has another layout, an annotation file cannot be read, the two splits have different
            classes, or the config has no detection head to size.
    """
    root = Path(folder)
    if classes is not None:
        raise ValueError("--classes is for segmentation: a detector's class names stand in the annotation files.")
    if not root.is_dir():
        raise ValueError(f"--data {root} is not a folder. Expected:\n{LAYOUT}")
    splits = {name: _find_split(root, name) for name in _LAYOUTS}
    # Read once: COCO's training file takes seconds.
    contents = {name: read_annotations(root / split.annotations) for name, split in splits.items()}
    names = {name: category_names(content) for name, content in contents.items()}
    if names["train"] != names["val"]:
        raise ValueError(
            f"{root / splits['train'].annotations} has the classes {names['train']}, but "
            f"{root / splits['val'].annotations} has {names['val']}: write the same categories in the same order."
        )

    use_coco_objects(cfg)
    for loader, name in (("train", "train"), ("val", "val"), ("test", "val")):
        split = splits[name]
        if cfg.get(f"{loader}_dataloader") is not None:
            for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
                dataset.update(
                    type="mmdet.CocoDataset",
                    data_root=str(root),
                    ann_file=split.annotations,
                    data_prefix=dict(img=_image_folder(root, split, contents[name])),
                    metainfo=dict(classes=tuple(names["train"])),
                )
        evaluators = cfg.get(f"{loader}_evaluator")
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            if evaluator is not None and "ann_file" in evaluator:
                evaluator.ann_file = str(root / split.annotations)
    set_num_classes(cfg.model, len(names["train"]))
    return names["train"]


def read_annotations(path: Path) -> dict[str, Any]:
    """Reads a COCO annotation file.

    Raises:
        ValueError: It is missing, or as for ``read_json``, has no images or categories, or one of them lacks an id, a
            name or a size, or names a file outside of the image folder.
    """
    if not path.is_file():
        raise ValueError(f"Annotation file {path} does not exist.")
    content = read_json(path, "Annotation file")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"Annotation file {path} has no list '{key}': it is not in COCO's instances format.")
    for key in ("images", "categories"):
        if not content[key]:
            raise ValueError(f"Annotation file {path} has an empty list '{key}'.")
    for key, fault in (("images", _image_fault), ("categories", _category_fault), ("annotations", _annotation_fault)):
        for number, entry in enumerate(content[key]):
            if (found := fault(entry)) is not None:
                raise ValueError(f"Annotation file {path}: entry {number} of '{key}' {found}.")
    return content


def _image_fault(image: Any) -> str | None:
    if not isinstance(image, dict):
        return f"is no object in braces but {str(image)[:40]!r}"
    for key in ("id", "height", "width"):
        if not is_whole(image.get(key)) or (key != "id" and image[key] < 1):
            return f"has {key}={image.get(key)!r}; it must be a whole number{'' if key == 'id' else ' of pixels'}"
    if image["height"] * image["width"] > pixel_limit():
        return f"claims {image['width']}x{image['height']} pixels, more than {pixel_limit()}; cut the image into tiles"
    name = image.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return f"has file_name={name!r}; it must be the name of a file"
    if leads_out(name):
        return f"names the file '{name}', which leads out of the image folder: write names relative to it"
    return None


def is_whole(value: Any) -> bool:
    """Whether a value from JSON is a whole number that every program can hold; true and false are none."""
    return type(value) is int and abs(value) < 2**53  # what a float of 64 bits still counts


def _category_fault(category: Any) -> str | None:
    if not isinstance(category, dict) or not is_whole(category.get("id")):
        return "has no whole number as its id"
    if not isinstance(category.get("name"), str) or not category["name"]:
        return f"has name={category.get('name')!r}; it must be the name of a class"
    return None


def _annotation_fault(annotation: Any) -> str | None:
    return None if isinstance(annotation, dict) else f"is no object in braces but {str(annotation)[:40]!r}"


def category_names(annotations: dict[str, Any]) -> list[str]:
    """Gives the class names in the order of the file, which is the order of mmdet's labels."""
    return [category["name"] for category in annotations["categories"]]


def _find_split(root: Path, name: str) -> Split:
    for split in _LAYOUTS[name]:
        if (root / split.annotations).is_file():
            return split
    raise ValueError(f"--data {root} has no annotations of the {name} split. Expected:\n{LAYOUT}")


def _image_folder(root: Path, split: Split, content: dict[str, Any]) -> str:
    """File names may stand relative to the split's image folder or to the whole folder."""
    first = content["images"][0]["file_name"]
    return "" if (root / first).is_file() and not (root / split.images / first).is_file() else f"{split.images}/"
