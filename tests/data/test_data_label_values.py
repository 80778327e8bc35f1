"""Classes that never occur and ignored pixels are reported before training; labels are counted by hand."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from convnext_dense.config.class_counts import set_num_classes
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.own.tasks import inspect_data, use_folder

SEGMENTER = "configs/demo/upernet_convnext_atto_scratch.py"


@pytest.fixture
def inspect(request, tmp_path):
    """Write labels of 4 x 4 pixels, each given by the values of one row, and return the findings."""

    def write_and_inspect(train, val=((0, 1, 1, 1),), names=("background", "object"), *, is_ade=False, num_opened=64):
        for split, labels in (("train", train), ("val", val)):
            ours = {"train": "training", "val": "validation"}[split] if is_ade else split
            folders = ("images", "annotations") if is_ade else ("img_dir", "ann_dir")
            for folder in folders:
                (tmp_path / folder / ours).mkdir(parents=True)
            for number, row in enumerate(labels):
                Image.new("RGB", (4, 4)).save(tmp_path / folders[0] / ours / f"{number:03}.jpg")
                values = np.array([row] * 4, np.uint8)
                Image.fromarray(values).save(tmp_path / folders[1] / ours / f"{number:03}.png")
        cfg = Config.fromfile(request.config.rootpath / SEGMENTER)
        init_default_scope("mmseg")
        use_folder(cfg, DataFolder(str(tmp_path), classes=list(names)), work_dir=tmp_path / "work")
        inspection = Inspection(num_opened)
        inspect_data(cfg, ("train", "val"), inspection)
        return {(found.severity, found.check): found.example for found in inspection.findings}

    return write_and_inspect


def test_masks_of_0_and_255_are_read_as_two_classes(inspect):
    assert inspect(train=[(0, 0, 255, 255), (0, 0, 0, 255)], val=[(0, 255, 255, 255)]) == {}


def test_a_sample_of_masks_of_0_and_255_is_a_warning(inspect):
    found = inspect(train=[(0, 0, 255, 255)] * 4, num_opened=2)
    assert "No pixel of 2 of the 4 labels read" in found["warning", "classes without pixels"]
    assert "if it stands for 'object', write 1" in found["warning", "classes without pixels"]


def test_classes_of_no_training_label_are_reported_once(inspect):
    names = [f"c{number}" for number in range(20)]
    found = inspect(train=[(0, 1, 2, 3)] * 3, val=[(0, 1, 2, 19)], names=names)
    text = found["warning", "classes without pixels"]
    assert "No pixel of the 3 labels read" in text
    assert "'c4' (4), 'c5' (5)" in text
    assert text.endswith("'c13' (13) and 6 more.")
    assert "255" not in text
    assert "has pixels of 'c19', and no training label has" in found["warning", "classes that are not learnt"]
    assert [severity for severity, _ in found] == ["warning", "warning", "note"]  # a note about val


def test_classes_that_a_sample_lacks_are_not_reported_for_val(inspect):
    found = inspect(train=[(0, 0, 0, 0)] * 4, val=[(0, 1, 1, 1)], num_opened=2)
    assert ("warning", "classes without pixels") in found
    assert ("warning", "classes that are not learnt") not in found


def test_void_between_classes_that_all_occur_is_no_finding(inspect):
    assert not inspect(train=[(0, 1, 255, 255)], val=[(0, 1, 1, 255)])


def test_labels_that_are_nearly_all_ignored_are_a_warning(inspect):
    sparse = [(255, 255, 255, 255)] * 15 + [(0, 1, 255, 255)]
    text = inspect(train=sparse)["warning", "ignored pixels"]
    assert "96.9% of the pixels of 16 labels read" in text  # 2 of 64 columns are not
    assert "(value 255)" in text


def test_zero_is_reported_where_the_layout_ignores_it_and_the_names_count_it(inspect):
    found = inspect(train=[(0, 0, 0, 1)], val=[(0, 1, 2, 2)], is_ade=True)
    text = found["warning", "numbers of classes"]
    assert "look off by one: 0 to 1 occur and 2 does not" in text
    assert "'background' first, and 0 (75.0% of the pixels) is ignored" in text


def test_zero_beside_all_classes_is_void(inspect):
    assert not inspect(train=[(0, 0, 1, 2)], val=[(0, 1, 2, 2)], is_ade=True)


@pytest.mark.parametrize(
    ("kind", "image", "label", "first"),
    [
        ("CityscapesDataset", "a_leftImg8bit.png", "a_gtFine_labelTrainIds.png", 0),
        ("LoveDADataset", "a.png", "a.png", 1),  # numbers its classes from 1
        ("ADE20KDataset", "a.jpg", "a.png", 1),
    ],
)
def test_published_data_sets_are_read_by_their_own_rules(request, tmp_path, kind, image, label, first):
    """Suffixes and numbering are defined in mmseg's classes, not in configs."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / image)
    Image.fromarray(np.full((8, 8), first, np.uint8)).save(tmp_path / "labels" / label)
    cfg = Config.fromfile(request.config.rootpath / SEGMENTER)
    init_default_scope("mmseg")
    cfg.train_dataloader.dataset = dict(
        type=kind, data_root=str(tmp_path), data_prefix=dict(img_path="images", seg_map_path="labels"), pipeline=[]
    )
    with DATASETS.switch_scope_and_registry("mmseg") as registry:
        names = registry.get(kind).METAINFO["classes"]
    set_num_classes(cfg.model, len(names))
    inspection = Inspection()
    inspect_data(cfg, ("train",), inspection)
    assert not inspection.of("error")
    assert f"1 of {len(names)} classes occur and 0.0% of the pixels are ignored" in inspection.lines[0]


@pytest.mark.parametrize(("row", "is_named"), [((0, 1, 2, 3), False), ((0, 0, 0, 1), True)])
def test_many_classes_are_off_by_one_only_where_most_pixels_are_0(inspect, row, is_named):
    """A sample of ADE20K lacks many classes, including the last, and a few of its pixels are 0, which is correct."""
    found = inspect(train=[row], val=[(0, 1, 10, 10)], names=[f"c{number}" for number in range(10)], is_ade=True)
    assert (("warning", "numbers of classes") in found) is is_named
