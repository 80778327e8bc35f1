"""Checks detection data before the first iteration: files, classes, class counts, objects, images."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from convnext_dense.config.class_counts import check_class_counts
from convnext_dense.config.datasets import class_names, config_dicts, evaluators, loaded_datasets, quote
from convnext_dense.config.mask_heads import (
    can_drop_masks,
    drop_masks,
    ignores_missing_masks,
    learn_some_masks,
    measures_masks,
    unmasked_fault,
)
from convnext_dense.config.predicting import only_predict
from convnext_dense.data.checks.checked_files import CheckedFile, recall, remember
from convnext_dense.data.checks.coco_annotations import Objects, inspect_entries, inspect_objects
from convnext_dense.data.checks.coco_masks import NO_MASK
from convnext_dense.data.checks.inspection import ERROR, Inspection
from convnext_dense.data.checks.split_overlap import inspect_overlap
from convnext_dense.data.image_reader import reader_of
from convnext_dense.data.opened_images import inspect_image
from convnext_dense.data.own.detection import (
    LAYOUT,
    category_names,
    order_categories,
    read_annotations,
    repairs_of,
    write_annotations,
)
from convnext_dense.errors import UserError


class CocoSplit(NamedTuple):
    """A data set in COCO format that a config reads.

    Attributes:
        loader: ``'train'``, ``'val'`` or ``'test'``.
        path: The annotation file.
        folder: The folder of its images.
        dataset: The data set's config.
    """

    loader: str
    path: Path
    folder: Path
    dataset: ConfigDict


def check_detection_data(cfg: Config, loaders: Sequence[str], inspection: Inspection) -> None:
    """Check every data set in COCO format that will be read against the config.

    Args:
        cfg: The config of the run, changed in place. If no object of the training data (of the test data, if only that
            is read) has a mask, the mask head is removed, with a warning; if only some have one, the RoI head becomes
            one that can learn from them; if the test data has no objects, predictions are written and nothing is
            measured; and what is not as in COCO's format is written anew to ``converted`` in the work dir.
        loaders: Which of ``'train'``, ``'val'``, ``'test'`` will be used.
        inspection: Collects the findings, and one sentence per data set.
    """
    objects: list[tuple[CocoSplit, Objects]] = []
    files: dict[str, list[Path]] = {}
    tested: list[int] = []
    contents: dict[Path, dict[str, Any]] = {}
    orders: dict[Path, list[str]] = {}
    for split in coco_splits(cfg, loaders):
        try:
            question = _question(cfg, split)
            known = recall(split.path, **question) if split.path.is_file() else None
            content = _read(split) if known is None else known.content
            classes = _check_classes(content, split.path, split.dataset, cfg.model, orders)
        except UserError as error:
            inspection.error("annotation files and classes", str(error))
            continue
        if split.loader == "test":
            tested.append(len(content["annotations"]) if known is None else known.num_annotations)
        if inspection.takes_time:
            files.setdefault(split.loader, []).extend(split.folder / image["file_name"] for image in content["images"])
        _inspect_proposals(split, inspection)
        if split.path not in contents:
            _note_repairs(split.path, inspection)
        contents[split.path] = content
        known = known or _inspect_content(split, content, classes, question)
        objects.append((split, _inspect_split(split, known, classes, inspection)))
    unmasked = _inspect_masks(cfg, objects, inspection)
    _inspect_learnt_classes(objects, inspection)
    if tested and not any(tested):
        only_predict(cfg, "test")
    if not inspection.of(ERROR):
        for split, path in ((split, split.path) for split, _ in objects if split.path in unmasked):
            contents[path] = _read(split)
            for annotation in contents[path]["annotations"]:
                if not annotation.get("segmentation"):
                    annotation["segmentation"] = NO_MASK
        _convert(cfg, loaders, contents, unmasked)
    if inspection.takes_time:
        inspect_overlap(files, inspection)


def coco_splits(cfg: Config, loaders: Sequence[str]) -> Iterator[CocoSplit]:
    """Yield the data sets in COCO format, each annotation file once for training and once for evaluation."""
    seen = set()
    for loader, dataset in loaded_datasets(cfg, loaders):
        path = _annotation_file(dataset)
        if path is None:
            continue
        root = Path(dataset.get("data_root") or "")
        if (path, loader == "train") not in seen:
            seen.add((path, loader == "train"))
            yield CocoSplit(loader, path, root / (dataset.get("data_prefix") or {}).get("img", ""), dataset)


def _annotation_file(dataset: ConfigDict) -> Path | None:
    """Return the annotation file of a data set in COCO's format; None for any other data set."""
    if "CocoDataset" not in str(dataset.get("type")) or not dataset.get("ann_file"):
        return None
    return Path(dataset.get("data_root") or "", dataset.ann_file)


def _note_repairs(path: Path, inspection: Inspection) -> None:
    for check, (times, example) in repairs_of(path).found.items():
        inspection.repaired(check, example, times)


def _convert(cfg: Config, loaders: Sequence[str], contents: dict[Path, dict[str, Any]], unmasked: set[Path]) -> None:
    """Write files that mmdet cannot read as they are, and point the config at what was written."""
    cache = Path(cfg.get("work_dir") or Path("work_dirs", Path(cfg.filename or "data").stem), "converted")
    written: dict[Path, str] = {}

    def converted(path: Path, *, is_trained: bool) -> str | None:
        if path not in contents:
            return None
        if path not in unmasked and not repairs_of(path).must_be_written(is_trained=is_trained):
            return None
        if path not in written:
            written[path] = str(write_annotations(contents[path], path, cache))
        return written[path]

    for loader, dataset in loaded_datasets(cfg, loaders):
        path = _annotation_file(dataset)
        file = None if path is None else converted(path, is_trained=loader == "train")
        if file is not None:
            dataset.ann_file = file
            for metric in evaluators(cfg, loader) if loader != "train" else ():
                if metric.get("ann_file") and Path(metric.ann_file) == path:
                    metric.ann_file = file


def _read(split: CocoSplit) -> dict[str, Any]:
    if not split.path.is_file():
        root = split.dataset.get("data_root") or split.path.parent
        raise UserError(
            f"There is no data at {root}: {split.path} does not exist. Put COCO 2017 there (annotations/, train2017/, "
            f"val2017/), or point to a folder of your own with --data DIR. Expected:\n{LAYOUT}"
        )
    reader = reader_of(split.dataset.get("pipeline"))
    return read_annotations(
        split.path,
        needs_objects=split.loader != "test",
        folder=split.folder,
        are_turned=reader is None or reader.turns_images,
    )


def _check_classes(
    annotations: dict, path: Path, dataset: ConfigDict, model: ConfigDict, orders: dict[Path, list[str]]
) -> list[str]:
    """Return the classes of a data set; a file of another order is sorted, once for all that read it (``orders``)."""
    classes = class_names(dataset)
    if classes is None:
        raise UserError(f"The data set of {path} has no class names: set metainfo=dict(classes=(...)).")
    in_file = category_names(annotations)
    if len(set(in_file)) != len(in_file):
        raise UserError(f"{path} names a class twice: {quote(in_file)}.")
    absent = [name for name in classes if name not in in_file]
    if absent:
        raise UserError(
            f"The config has classes that {path} does not have: {quote(absent)}. The file has {quote(in_file)}. "
            "Give the folder with --data DIR to take the classes from the file."
        )
    if [name for name in in_file if name in classes] != list(classes):
        if path in orders:
            raise UserError(
                f"Two data sets of the config read {path} with its classes in different orders, {quote(orders[path])} "
                f"and {quote(classes)}: give both the same metainfo."
            )
        order_categories(annotations, path, classes)
    orders.setdefault(path, list(classes))
    check_class_counts(model, classes, path)
    return list(classes)


def _inspect_proposals(split: CocoSplit, inspection: Inspection) -> None:
    """Require the proposals of another detector for models such as Fast R-CNN, which read them from a file."""
    reads_proposals = any("LoadProposals" in str(step.get("type")) for step in split.dataset.get("pipeline") or ())
    if reads_proposals and not split.dataset.get("proposal_file"):
        inspection.error(
            "proposals",
            f"The model learns from proposals, and there are none for {split.path}: name a file that mmdet's "
            f"LoadProposals reads with --cfg-options +{split.loader}_dataloader.dataset.proposal_file=FILE.",
        )


def _has_masks(cfg: Config) -> bool:
    return any(node.get("mask_head") or node.get("with_mask") for node in config_dicts(list(cfg.values())))


def _question(cfg: Config, split: CocoSplit) -> dict[str, Any]:
    """Return on what, besides the file, the result of ``_inspect_content`` depends."""
    return dict(
        classes=list(class_names(split.dataset) or ()), has_masks=_has_masks(cfg), is_trained=split.loader == "train"
    )


def _inspect_content(
    split: CocoSplit, content: dict[str, Any], classes: Sequence[str], question: Mapping[str, Any]
) -> CheckedFile:
    """Look at the entries of an annotation file, and keep the result if the file is a converted one without faults."""
    found = Inspection()
    inspect_entries(content, split.path, found)
    objects = inspect_objects(
        content,
        split.path,
        found,
        classes=classes,
        has_masks=question["has_masks"],
        is_trained=question["is_trained"],
    )
    if not found.of(ERROR):
        remember(split.path, content, objects, found.findings, **question)
    return CheckedFile(content, len(content["annotations"]), objects, found.findings)


def _inspect_split(split: CocoSplit, known: CheckedFile, classes: Sequence[str], inspection: Inspection) -> Objects:
    content, num_annotations, objects, findings = known
    path, images, is_trained = split.path, content["images"], split.loader == "train"
    for finding in findings:
        inspection.add(finding)
    _inspect_images(images, split, inspection)
    if not num_annotations:
        what = "there is nothing to learn from" if is_trained else "there is nothing to evaluate"
        # A published test set may withhold its annotations; its predictions are written and submitted.
        add = inspection.warning if split.loader == "test" else inspection.error
        add("empty splits", f"Annotation file {path} has no annotations: {what}.")
    num_empty = len(images) - len(objects.in_images)
    rules = split.dataset.get("filter_cfg") or {} if is_trained else {}
    if num_empty:
        fate = "are left out (filter_empty_gt)" if rules.get("filter_empty_gt") else "count as background"
        inspection.note("images without objects", f"{path}: images without an object {fate}.", num_empty)
    small = [image["file_name"] for image in images if min(image["height"], image["width"]) < rules.get("min_size", 0)]
    if small:
        inspection.warning(
            "small images",
            f"{path}: images with a side below {rules['min_size']} pixels, such as {quote(small, 3)}, are not learnt "
            "from; filter_cfg.min_size of the data set says so.",
            len(small),
        )
    in_file = len(content["categories"])
    of_all = f" of its {in_file}" if len(classes) < in_file else ""
    inspection.lines.append(
        f"{path}: {len(images)} images, {num_annotations} annotations, {len(classes)}{of_all} classes."
    )
    return objects


def _inspect_images(images: list[dict], split: CocoSplit, inspection: Inspection) -> None:
    # One listing per folder: a look-up per file takes minutes on network file systems.
    listings: dict[str, set[str]] = {}
    present: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    for image in images:
        folder, name = os.path.split(os.path.join(split.folder, image["file_name"]))
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        (present if name in listings[folder] else missing).append(image)
    if missing:
        names = [image["file_name"] for image in missing]
        inspection.error(
            "missing images",
            f"{len(names)} of {len(images)} images of {split.path} are not in {split.folder}, such as "
            f"{quote(names, 3)}.",
            len(names),
        )
    reader = reader_of(split.dataset.get("pipeline"))
    for image in inspection.follow(inspection.pick(present), f"images of {split.path.name}"):
        opened = inspect_image(split.folder / image["file_name"], inspection, reader=reader)
        if opened is not None and (opened.width, opened.height) != (image["width"], image["height"]):
            is_turned = opened.orientation >= 5 and (reader is None or reader.turns_images)
            turned = " It is stored on its side and turned upright when it is read." if is_turned else ""
            inspection.error(
                "sizes of images",
                f"Image {split.folder / image['file_name']} is {opened.width}x{opened.height} pixels, but {split.path} "
                f"says {image['width']}x{image['height']}.{turned} Annotate the image as it is read.",
            )


def _inspect_learnt_classes(objects: list[tuple[CocoSplit, Objects]], inspection: Inspection) -> None:
    """Report the classes that no training data has; a training may read several files."""
    trained = [split for split, _ in objects if split.loader == "train"]
    learnt = {name for split, counts in objects if split.loader == "train" for name in counts.per_class}
    absent = [name for name in class_names(trained[0].dataset) or () if name not in learnt] if trained else []
    if learnt and absent:
        files = ", ".join(str(split.path) for split in trained)
        inspection.warning("classes without objects", f"{files} has no object of {quote(absent)} to learn from.")
    for split, counts in objects:
        unlearnt = [name for name in counts.per_class if name not in learnt]
        if learnt and unlearnt and split.loader != "train":
            inspection.warning(
                "classes that are not learnt",
                f"{split.path} has objects of {quote(unlearnt)}, and the training data has none: they cannot be found.",
            )


def _inspect_masks(cfg: Config, objects: list[tuple[CocoSplit, Objects]], inspection: Inspection) -> set[Path]:
    """Report objects without a mask where masks matter, and fit the config to them.

    Returns:
        The annotation files in which such objects stay, beside others that have a mask.
    """
    if not _has_masks(cfg):
        return set()
    decisive = [pair for pair in objects if pair[0].loader == "train"] or objects
    has_none = bool(decisive) and all(counts.total == counts.without_mask > 0 for _, counts in decisive)
    if has_none and can_drop_masks(cfg.model):
        drop_masks(cfg)
        inspection.warning(
            "boxes without masks",
            f"No object of {decisive[0][0].path} has a mask: the mask head is off, and boxes alone are trained and "
            "evaluated. The config that is written to the work dir has no mask head; test and infer with it.",
        )
        return set()
    unmasked = set()
    for split, counts in objects:
        if not counts.without_mask:
            continue
        fault = _unmasked_fault(cfg, split, counts)
        if fault is not None:
            inspection.error(
                "boxes without masks",
                f"Annotation {counts.first_without} of {split.path} has a box but no mask, and {fault}: add masks, or "
                "remove the mask head and with_mask=True from the config.",
                counts.without_mask,
            )
            continue
        unmasked.add(split.path)
        what = (
            f"its box and class are learnt, and masks from other objects ({learn_some_masks(cfg)})"
            if split.loader == "train"
            else "box AP counts it, and for mask AP its box is a region that is ignored"
        )
        inspection.warning(
            "boxes without masks",
            f"Annotation {counts.first_without} of {split.path} has no mask: {what}.",
            counts.without_mask,
        )
    return unmasked


def _unmasked_fault(cfg: Config, split: CocoSplit, counts: Objects) -> str | None:
    """Return why objects without a mask cannot stay beside others; None if they can."""
    if split.loader == "train":
        return unmasked_fault(cfg)
    if measures_masks(cfg, split.loader) and counts.without_mask == counts.total:
        return "mask AP needs the mask of at least one object"
    if not ignores_missing_masks(cfg, split.loader):
        return "only convnext_dense.CocoMetric can measure mask AP without it"
    return None
