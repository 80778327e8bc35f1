"""COCO in any layout: one annotation file, such as Label Studio's ``result.json``, or one per split."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convnext_dense.config.datasets import SPLIT_FOLDERS, quote
from convnext_dense.data.formats.annotations import Annotations
from convnext_dense.data.formats.finding import ImageIndex, by_split, json_files, split_of
from convnext_dense.data.own.coco_repairs import repair
from convnext_dense.data.own.detection import (
    category_names,
    check_content,
    image_folder,
    parse_annotations,
    present_split,
)
from convnext_dense.errors import UserError

NAME = "COCO"
_KEYS = (b'"images"', b'"annotations"', b'"categories"')


def find_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder in this format; None for a folder in another format."""
    return list(_files(folder)) or None


def source_files(folder: Path) -> Iterator[Path]:
    """Yield the files on whose content the annotations depend."""
    yield from _files(folder).values()


def read(folder: Path, splits: list[str], _: Path) -> tuple[dict[str, Annotations], list[str]]:
    """Read splits of a folder.

    Returns:
        The objects by split, and the class names by label.

    Raises:
        UserError: An annotation file is wrong, an image is missing, or two splits have different classes.
    """
    found: dict[str, Annotations] = {}
    names: list[str] = []
    files, images = _files(folder), ImageIndex(folder)
    for split in splits:
        path = files[split]
        content = parse_annotations(path)
        usual = present_split(folder, split)
        is_usual = usual is not None and bool(usual.annotations)
        if not is_usual and isinstance(content, dict) and isinstance(content.get("images"), list):
            content = dict(content, images=[_located(entry, path, images, split) for entry in content["images"]])
        root = folder / image_folder(folder, split, content) if is_usual else folder
        repairs = repair(content, path, folder=root)
        check_content(content, path, needs_objects=split != "test")
        if len(set(category_names(content))) < len(category_names(content)):
            raise UserError(f"{path} names a class twice: {quote(category_names(content))}.")
        if names and sorted(category_names(content)) != sorted(names):
            raise UserError(f"{path} has the classes {category_names(content)}, but another split has {names}.")
        names = names or category_names(content)
        found[split] = _collect(content, root, path)
        found[split].left_out.update({f"repaired ({kind})": times for kind, (times, _) in repairs.found.items()})
    return found, names


def _files(folder: Path) -> dict[str, Path]:
    """Return the annotation file of each split.

    Raises:
        UserError: There are several files for a split.
    """
    usual = {split: present_split(folder, split) for split in SPLIT_FOLDERS}
    listed = {split: folder / found.annotations for split, found in usual.items() if found and found.annotations}
    if listed:
        return listed
    files = [file for file, content in json_files(folder) if all(key in content for key in _KEYS)]
    found = by_split(files, folder, is_whole=True) if files else {}
    for split, several in found.items():
        if len(several) > 1:
            raise UserError(
                f"{folder} has several files in COCO's format for {split}, {quote([str(path) for path in several], 3)}"
                ": keep one, or name them instances_train.json and instances_val.json."
            )
    return {split: file for split, (file,) in found.items()}


def _located(entry: Any, path: Path, images: ImageIndex, split: str) -> Any:
    """Return the entry of an image with the name of its file relative to the folder."""
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name:
        return entry  # the check says what is wrong with it
    found = images.find(name, path, split)
    if not found.is_file():
        raise UserError(
            f"Annotation file {path} names the image {name!r}, which {images.root} does not have for {split}."
        )
    if split_of(found, images.root) not in (None, split):
        raise UserError(
            f"Annotation file {path} has images of several splits, such as {found}: write one annotation file for each."
        )
    return dict(entry, file_name=found.relative_to(images.root).as_posix())


def _collect(content: dict[str, Any], root: Path, path: Path) -> Annotations:
    annotations = Annotations(root)
    annotations.images = content["images"]
    ids = {image["id"] for image in content["images"]}
    by_id = {category["id"]: category["name"] for category in content["categories"]}
    for number, item in enumerate(content["annotations"]):
        for key, known in (("image_id", ids), ("category_id", by_id)):
            if isinstance(item.get(key), list | dict) or item.get(key) not in known:
                raise UserError(
                    f"Annotation file {path}: entry {number} of 'annotations' has {key}={item.get(key)!r}, "
                    "which the file does not have."
                )
        rest = {key: value for key, value in item.items() if key not in ("id", "image_id", "category_id")}
        annotations.add_entry(item["image_id"], by_id[item["category_id"]], rest)
    return annotations
