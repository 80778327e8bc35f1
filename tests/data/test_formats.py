"""The same data set written by many tools (tests/fixtures/formats), held against the original in COCO's format."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from convnext_dense.config.reading import read_config
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.image_folder import find_samples
from convnext_dense.data.own.tasks import use_folder

ROOT = Path(__file__).parents[1] / "fixtures/formats"
CONFIGS = Path(__file__).parents[2] / "configs/demo"
NAMES = ["circle", "square", "triangle", "star", "cross", "crescent"]

# Formats of objects -> the least IoU of their masks; None for formats of boxes.
OBJECTS = {
    "datumaro_coco": 1,
    "datumaro_cvat": 0.98,
    "datumaro_cvat_boxes": None,
    "datumaro_cvat_masks": 1,
    "datumaro_voc": None,
    "datumaro_voc_one_based": None,
    "datumaro_yolo": None,
    "datumaro_yolo_ultralytics": None,
    "fiftyone_coco": 1,
    "fiftyone_cvat": 0.98,
    "fiftyone_voc": None,
    "fiftyone_yolo": None,
    "fiftyone_yolo_polygons": 0.98,
    "label_studio_coco": 0.98,
    "label_studio_coco_upload": 0.98,
    "label_studio_yolo": 0.98,
    "labelme": 1,
    "labelme_embedded": 1,
    "labelme_shapes": None,
    "roboflow_coco": 1,
    "supervision_coco": 0.85,  # the tool fills polygons with their border, and traces them again
    "supervision_voc": 0.85,
    "supervision_yolo": 0.85,
    "via": 1,
    "via1": 1,
}
# Label Studio exports one split.
SPLITS = {name: ["train"] if name.startswith("label_studio") else ["train", "val"] for name in OBJECTS}
# Formats of label images -> the options that their files need.
LABELS = {
    "camvid_kaggle": {},
    "cvat_masks": {},
    "datumaro_camvid": {},
    "datumaro_cityscapes": {},
    "datumaro_common_semantic_segmentation": {},
    "datumaro_voc": {},
    "datumaro_voc_no_colours": {},
    "fiftyone_masks": dict(classes=("background", *NAMES)),
    "roboflow_masks": {},
}
CLASSES = ["csv", "datumaro_imagenet", "fiftyone_folders", "supervision_folders"]


def objects_of(file, folder):
    """Return pixels of an image -> sorted (class, box, mask)."""
    coco = COCO(str(file))
    found = {}
    for image in coco.imgs.values():
        pixels = np.asarray(Image.open(folder / image["file_name"])).tobytes()
        found[pixels] = sorted(
            (
                (
                    coco.cats[item["category_id"]]["name"],
                    item["bbox"],
                    coco.annToMask(item) if item.get("segmentation") else None,
                )
                for item in coco.imgToAnns[image["id"]]
            ),
            key=lambda each: (each[0], [round(value / 4) for value in each[1]]),
        )
    return found


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_of_every_format_are_those_of_the_original(name, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in ROOT.rglob("*"))
    cfg = read_config(CONFIGS / "mask_rcnn_convnext_atto_shapes.py")
    splits = {"train": "train"} if name.startswith("label_studio") else {"train": "train", "val": "val"}
    names = use_folder(cfg, ROOT / name, splits=splits, work_dir=tmp_path)
    assert sorted(names) == sorted(set(NAMES) - ({"square"} if name in ("fiftyone_yolo",) else set())) or set(
        names
    ) <= set(NAMES)
    for split in splits:
        dataset = cfg[f"{split}_dataloader"].dataset
        found = objects_of(Path(dataset.data_root, dataset.ann_file), Path(dataset.data_root, dataset.data_prefix.img))
        expected = objects_of(ROOT / "original" / f"instances_{split}.json", ROOT / "original" / split)
        assert found.keys() == expected.keys()
        for pixels, objects in expected.items():
            assert [each[0] for each in found[pixels]] == [each[0] for each in objects]
            for (_, box, mask), (_, other, other_mask) in zip(objects, found[pixels], strict=True):
                np.testing.assert_allclose(other, box, atol=2 if name == "labelme_shapes" else 1.01)
                if OBJECTS[name] is None:
                    continue
                assert iou(mask, other_mask) >= OBJECTS[name]
    assert sorted((path, path.stat().st_mtime_ns) for path in ROOT.rglob("*")) == before


def painted(split):
    """Return pixels of an image -> label image of the original: 0 is the background, later objects are on top."""
    coco = COCO(str(ROOT / "original" / f"instances_{split}.json"))
    found = {}
    for image in coco.imgs.values():
        labels = np.zeros((image["height"], image["width"]), np.uint8)
        for item in coco.imgToAnns[image["id"]]:
            labels[coco.annToMask(item) == 1] = item["category_id"]
        found[np.asarray(Image.open(ROOT / "original" / split / image["file_name"])).tobytes()] = labels
    return found


@pytest.mark.parametrize("name", LABELS)
def test_label_images_of_every_format_are_the_painted_objects(name, tmp_path):
    cfg = read_config(CONFIGS / "upernet_convnext_atto_shapes.py")
    names = use_folder(cfg, DataFolder(str(ROOT / name), **LABELS[name]), work_dir=tmp_path)
    assert sorted(names) == sorted(["background", *NAMES])
    number = np.array([names.index(each) for each in ["background", *NAMES]])
    for split in ("train", "val"):
        dataset = cfg[f"{split}_dataloader"].dataset
        expected, found = painted(split), 0
        for line in Path(dataset.ann_file).read_text().splitlines():
            pixels = np.asarray(Image.open(Path(dataset.data_prefix.img_path, line))).tobytes()
            labels = np.asarray(Image.open(Path(dataset.data_prefix.seg_map_path, line + ".png")))
            np.testing.assert_array_equal(labels, number[expected[pixels]])
            found += 1
        assert found == len(expected)


@pytest.mark.parametrize(
    "name", ["original", "label_studio_coco", "via", "datumaro_cvat_masks", "fiftyone_yolo_polygons"]
)
def test_label_images_are_painted_from_objects(name, tmp_path):
    cfg = read_config(CONFIGS / "upernet_convnext_atto_shapes.py")
    names = use_folder(cfg, DataFolder(str(ROOT / name)), splits={"train": "train"}, work_dir=tmp_path)
    assert names[0] == "background"
    number = np.array([names.index(each) if each in names else -1 for each in ["background", *NAMES]])
    dataset = cfg.train_dataloader.dataset
    expected = painted("train")
    lines = Path(dataset.ann_file).read_text().splitlines()
    assert len(lines) == len(expected)
    for line in lines:
        pixels = np.asarray(Image.open(Path(dataset.data_prefix.img_path, line))).tobytes()
        labels = np.asarray(Image.open(Path(dataset.data_prefix.seg_map_path, line + ".png")))
        assert (labels == number[expected[pixels]]).mean() > 0.995


@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_images_are_those_of_the_largest_object(name, tmp_path):
    cfg = read_config(CONFIGS / "pretrain_convnext_atto_shapes.py")
    cfg.train_dataloader.batch_size = 2
    names = use_folder(cfg, ROOT / name, work_dir=tmp_path)
    for split in ("train", "val"):
        coco = COCO(str(ROOT / "original" / f"instances_{split}.json"))
        expected = {
            image["file_name"]: max(coco.imgToAnns[image["id"]], key=lambda item: item["area"])["category_id"] - 1
            for image in coco.imgs.values()
        }
        dataset = cfg[f"{split}_dataloader"].dataset
        samples, _ = find_samples(Path(dataset.root), names, dataset.get("ann_file"))
        assert {Path(path).name: names[label] for path, label in samples} == {
            file: NAMES[label] for file, label in expected.items()
        }
