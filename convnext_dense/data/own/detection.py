"""Points a detection config at a custom folder in COCO format, and sizes its heads to the classes there."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from convnext_dense.config.class_counts import set_num_classes
from convnext_dense.config.coco_objects import use_coco_objects
from convnext_dense.config.datasets import (
    SPLIT_FOLDERS,
    TRAINING_SPLITS,
    evaluators,
    leads_out,
    loaded_datasets,
    quote,
)
from convnext_dense.data.image_reader import reader_of
from convnext_dense.data.opened_images import pixel_limit
from convnext_dense.data.own.coco_repairs import Repairs, repair, write_repaired
from convnext_dense.data.own.image_list import list_images, number_categories, write_list
from convnext_dense.data.text_files import read_json
from convnext_dense.errors import UserError

LAYOUT = """\
    DIR/train/*.jpg  DIR/instances_train.json  DIR/val/*.jpg  DIR/instances_val.json
or COCO's own:
    DIR/train2017/*.jpg  DIR/val2017/*.jpg  DIR/annotations/instances_train2017.json  (and instances_val2017.json)
(test likewise; where it has no objects its images are listed in image_info_test.json, or not at all)"""


class Split(NamedTuple):
    """Where a split's annotations and images are, relative to the folder.

    Attributes:
        annotations: The annotation file; empty if there are only images.
        images: The folder of the images.
    """

    annotations: str
    images: str


# {} is the name of the split. The last four files list images without objects.
_LAYOUTS = (
    Split("instances_{}.json", "{}"),
    Split("annotations/instances_{}2017.json", "{}2017"),
    Split("annotations/instances_{}.json", "{}"),
    Split("image_info_{}.json", "{}"),
    Split("annotations/image_info_{}2017.json", "{}2017"),
    Split("annotations/image_info_{}-dev2017.json", "{}2017"),
    Split("annotations/image_info_{}.json", "{}"),
)
# Exports of COCO files: Roboflow's, and CVAT's, which has all images in one folder if they were uploaded like that.
_EXPORTS = (
    Split("{}/_annotations.coco.json", "{}"),
    Split("annotations/instances_{}.json", "images/{}"),
    Split("annotations/instances_{}.json", "images"),
)

_HEAD = b'{"images_in": '  # the beginning of a converted file, see ``formats.annotations``
_State = tuple[Path, int, int]  # path, size and time of the last change of a file
_PARSED: dict[_State, Any] = {}
_REPAIRS: dict[_State, Repairs] = {}  # of the parsed files whose content was repaired


def use_coco_folder(
    cfg: Config,
    folder: str | os.PathLike,
    classes: Sequence[str] | None = None,
    trained: Sequence[str] | None = None,
    *,
    splits: Mapping[str, str] = TRAINING_SPLITS,
) -> list[str]:
    """Rewrite the data sets, evaluators and heads of a detection config for a folder in COCO format.

    See ``tasks.use_folder``. ``classes`` must be None: the annotation files contain the names, in label order.
    ``trained`` is for images without categories. A split that only the test loader reads need not have objects.

    Raises:
        UserError: The folder has another layout, an annotation file cannot be read, two splits have different
            classes, or the config has no detection head to size.
    """
    root = Path(folder)
    if classes is not None:
        raise UserError("--classes is for segmentation: a detector's class names are in the annotation files.")
    if not root.is_dir():
        raise UserError(f"--data {root} is not a folder. Expected:\n{LAYOUT}")
    have_objects = {name for loader, name in splits.items() if loader != "test"}
    pipelines = {splits[loader]: dataset.get("pipeline") for loader, dataset in loaded_datasets(cfg, splits)}
    files, contents = {}, {}
    for name in dict.fromkeys(splits.values()):
        reader = reader_of(pipelines.get(name))
        are_turned = reader is None or reader.turns_images
        files[name], contents[name] = _read_split(
            cfg, root, name, trained, needs_objects=name in have_objects, are_turned=are_turned
        )
    names = [category_names(content) for content in contents.values()]
    for name, others in zip(files, names, strict=True):
        if others != names[0] and set(others) == set(names[0]):
            order_categories(contents[name], files[name], names[0])
        elif others != names[0]:
            raise UserError(
                f"{files[next(iter(files))]} has the classes {names[0]}, but {files[name]} has {others}: write the "
                "same categories."
            )
    use_coco_objects(cfg, tuple(splits))
    for loader, dataset in loaded_datasets(cfg, splits):
        file = files[splits[loader]]
        dataset.update(
            type="mmdet.CocoDataset",
            data_root=str(root),
            ann_file=str(file.relative_to(root) if root in file.parents else file),
            data_prefix=dict(img=image_folder(root, splits[loader], contents[splits[loader]])),
            metainfo=dict(classes=tuple(names[0])),
        )
    for loader, name in splits.items():
        for evaluator in evaluators(cfg, loader):
            if "ann_file" in evaluator or str(evaluator.get("type")).endswith("CocoMetric"):
                evaluator.ann_file = str(files[name])
    set_num_classes(cfg.model, len(names[0]))
    return names[0]


def splits_of_coco_folder(folder: str | os.PathLike) -> list[str]:
    """Return which of ``'train'``, ``'val'`` and ``'test'`` a folder has: with objects, or with images to test on."""
    found = {name: present_split(Path(folder), name) for name in ("train", "val", "test")}
    return [
        name
        for name, split in found.items()
        if split and (_has_objects(split) or (name == "test" and Path(folder, split.images).is_dir()))
    ]


def is_plain(folder: Path) -> bool:
    """Whether a folder has the annotation file of any split, in COCO's format."""
    found = [present_split(folder, name) for name in ("train", "val", "test")]
    return any(split is not None and split.annotations for split in found)


def _has_objects(split: Split) -> bool:
    return bool(split.annotations) and "image_info_" not in split.annotations


def read_annotations(
    path: Path, *, needs_objects: bool = True, folder: Path | None = None, are_turned: bool = True
) -> dict[str, Any]:
    """Read a COCO annotation file, and repair what has only one meaning; ``repairs_of`` tells what.

    Args:
        path: The file.
        needs_objects: Whether the file must have a list of annotations, which may be empty.
        folder: The folder of its images, to find those whose names are written in another way, and missing sizes.
        are_turned: Whether images are turned upright according to EXIF when they are read.

    Raises:
        UserError: The file is missing or as for ``read_json``, has no images or categories, or one of these lacks an
            id, a name or a size, or names a file outside the image folder.
    """
    if not path.is_file():
        raise UserError(f"Annotation file {path} does not exist.")
    return check_content(repaired_annotations(path, folder, are_turned=are_turned), path, needs_objects=needs_objects)


def read_head(path: Path) -> dict[str, Any] | None:
    """Read images and categories of a converted file, whose annotations follow on other lines; None for other files."""
    with path.open("rb") as file:
        if file.read(len(_HEAD)) != _HEAD:
            return None
        first = file.readline()
    with contextlib.suppress(ValueError, KeyError):  # changed by hand
        content = json.loads(_HEAD + first + b"]}")
        return content if content["annotations"] == [] else None
    return None


def repairs_of(path: Path) -> Repairs:
    """Return what ``read_annotations`` repaired in a file."""
    return _REPAIRS.get(_state(path)) or Repairs(path)


def order_categories(content: dict[str, Any], path: Path, names: Sequence[str]) -> None:
    """Sort the categories of a file that was read by their names; mmdet's labels follow the order in the file."""
    places = {name: place for place, name in enumerate(names)}
    content["categories"].sort(key=lambda category: places.get(category["name"], -1))
    what = f"lists its categories in another order than {quote(names)}: they are read in this order"
    repairs_of(path).add("order of categories", f"{path} {what}.")


def write_annotations(content: dict[str, Any], path: Path, cache: Path) -> Path:
    """Write the repaired content of a file for mmdet, which reads files itself; see ``write_repaired``."""
    written = write_repaired(content, path, cache)
    key = _state(written)
    _PARSED[key], _REPAIRS[key] = content, Repairs(written)  # whoever reads it before the run need not parse it
    return written


def forget_annotations() -> None:
    """Free the memory of the annotation files that were read, once a run is prepared."""
    _PARSED.clear()
    _REPAIRS.clear()


def _state(path: Path) -> _State:
    state = path.stat()
    return path, state.st_size, state.st_mtime_ns


def parse_annotations(path: Path) -> Any:
    """Parse an annotation file once for all who look at it before a run: COCO's takes seconds.

    Raises:
        UserError: As for ``read_json``.
    """
    key = _state(path)
    if key not in _PARSED:
        _PARSED[key] = read_json(path, "Annotation file")
    content = _PARSED[key]
    return dict(content) if isinstance(content, dict) else content  # callers add lists to it


def repaired_annotations(path: Path, folder: Path | None, *, are_turned: bool) -> Any:
    """Parse and repair an annotation file, as ``read_annotations`` does, without the check that follows."""
    parse_annotations(path)
    key = _state(path)
    if key not in _REPAIRS:
        _REPAIRS[key] = repair(_PARSED[key], path, folder=folder, are_turned=are_turned)
    return parse_annotations(path)


def check_content(content: Any, path: Path, *, needs_objects: bool = True) -> dict[str, Any]:
    """Check the entries of an annotation file that was parsed, and return it; see ``read_annotations``."""
    if not needs_objects and isinstance(content, dict):
        content.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"Annotation file {path} has no list '{key}': it is not in COCO's instances format.")
    for key in ("images", "categories"):
        if not content[key]:
            raise UserError(f"Annotation file {path} has an empty list '{key}'.")
    for key, fault in (("images", _image_fault), ("categories", _category_fault), ("annotations", _annotation_fault)):
        for number, entry in enumerate(content[key]):
            if (text := fault(entry)) is not None:
                raise UserError(f"Annotation file {path}: entry {number} of '{key}' {text}.")
    return content


def _image_fault(image: Any) -> str | None:
    if not isinstance(image, dict):
        return f"is not a JSON object but {str(image)[:40]!r}"
    if not is_id(image.get("id")):
        return f"has id={image.get('id')!r}; it must be a number or text"
    for key in ("height", "width"):
        if type(image.get(key)) is not int or not 1 <= image[key] < 2**53:
            return f"has {key}={image.get(key)!r}; it must be a whole number of pixels"
    if image["height"] * image["width"] > pixel_limit():
        return f"claims {image['width']}x{image['height']} pixels, more than {pixel_limit()}; cut the image into tiles"
    name = image.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return f"has file_name={name!r}; it must be the name of a file"
    if leads_out(name):
        return f"names the file '{name}', which leads out of the image folder: write names relative to it"
    return None


def is_id(value: Any) -> bool:
    """Whether a value from JSON may be an id: text, or a number that every program can represent, but not a Boolean."""
    # Above 2^53 a 64-bit float cannot represent every whole number.
    return (type(value) in (int, float) and abs(value) < 2**53) or (isinstance(value, str) and value != "")


def _category_fault(category: Any) -> str | None:
    if not isinstance(category, dict) or not is_id(category.get("id")):
        return "has no number or text as its id"
    if not isinstance(category.get("name"), str) or not category["name"]:
        return f"has name={category.get('name')!r}; it must be the name of a class"
    return None


def _annotation_fault(annotation: Any) -> str | None:
    return None if isinstance(annotation, dict) else f"is not a JSON object but {str(annotation)[:40]!r}"


def category_names(annotations: dict[str, Any]) -> list[str]:
    """Return the class names in the order of the file, which is the order of mmdet's labels.

    Roboflow adds the name of the project as a category above all others, which no object has; it is left out.
    """
    first, *others = annotations["categories"]
    is_above = first["id"] == 0 and first.get("supercategory") == "none" and others
    if is_above and all(other.get("supercategory") == first["name"] for other in others):
        used = any(annotation.get("category_id") == 0 for annotation in annotations.get("annotations", ()))
        return [category["name"] for category in annotations["categories"] if used or category is not first]
    return [category["name"] for category in annotations["categories"]]


def present_split(root: Path, name: str) -> Split | None:
    """Return where annotations and images of ``'train'``, ``'val'`` or ``'test'`` are; None if there are neither."""
    layouts = [Split(*(part.format(name) for part in layout)) for layout in _LAYOUTS]
    aliases = [alias for folder in SPLIT_FOLDERS[name] for alias in (folder, folder.capitalize())]
    exports = [Split(*(part.format(alias) for part in layout)) for alias in aliases for layout in _EXPORTS]
    exports += [Split(f"instances_{alias}.json", alias) for alias in aliases if alias != name]
    listed = next((split for split in layouts if (root / split.annotations).is_file()), None)
    listed = next((split for split in exports if all((root / part).exists() for part in split)), listed)
    folder = next((split.images for split in layouts if (root / split.images).is_dir()), None)
    return listed or (None if folder is None else Split("", folder))


def _read_split(
    cfg: Config, root: Path, name: str, trained: Sequence[str] | None, *, needs_objects: bool, are_turned: bool
) -> tuple[Path, dict[str, Any]]:
    """Return the annotation file of a split and its content; for images without categories, write a new file."""
    split = present_split(root, name)
    if split is None or (needs_objects and not split.annotations):
        there = splits_of_coco_folder(root)
        raise UserError(
            f"--data {root} has no annotations of the {name} split{f'; it has {quote(there)}' if there else ''}. "
            f"Expected:\n{LAYOUT}"
        )
    path = root / split.annotations
    if split.annotations and (head := read_head(path)) is not None:
        content = head
    elif split.annotations:
        folder = root / image_folder(root, name, parse_annotations(path))
        content = repaired_annotations(path, folder, are_turned=are_turned)
    else:
        content = dict(images=list_images(root / split.images, are_turned=are_turned))
    is_bare = isinstance(content, dict) and not content.get("categories") and not content.get("annotations")
    if is_bare and not needs_objects:
        content["categories"] = _categories(root, name, trained)
        path = write_list(content, f"images_of_{name}")
    return path, check_content(content, path, needs_objects=needs_objects)


def _categories(root: Path, name: str, trained: Sequence[str] | None) -> list[Any]:
    """Return the categories for a split that has none: those of another split, or the checkpoint's."""
    for other in splits_of_coco_folder(root):
        split = present_split(root, other)
        if split is not None and split.annotations:
            content = parse_annotations(root / split.annotations)
            if isinstance(content, dict) and content.get("categories"):
                return content["categories"]
    if not trained:
        raise UserError(
            f"The images of the {name} split of {root} have no categories, and neither the other splits nor the "
            "checkpoint name any: list the images in COCO's format, with categories."
        )
    return number_categories(trained)


def image_folder(root: Path, name: str, content: Any) -> str:
    """Return the folder that file names are relative to: the split's image folder, or the whole folder."""
    split = present_split(root, name)
    assert split is not None
    if isinstance(content, dict) and "images_in" in content:  # a converted split
        return content["images_in"]
    try:
        first = content["images"][0]["file_name"]
        (root / first).is_file()
    except (TypeError, LookupError, ValueError):  # not in COCO's format, which the caller reports
        return f"{split.images}/"
    return "" if (root / first).is_file() and not (root / split.images / first).is_file() else f"{split.images}/"
