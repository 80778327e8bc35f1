"""Annotation formats of other tools, held against the same objects in COCO's format."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from format_writers import (
    as_objects,
    write_coco,
    write_cvat,
    write_labelme,
    write_roboflow,
    write_via,
    write_voc,
    write_yolo,
)

from convnext_dense.config.reading import read_config
from convnext_dense.data.data_report import report_data
from convnext_dense.data.formats import convert, recognise
from convnext_dense.data.own.tasks import use_folder, use_whole_folder
from convnext_dense.errors import UserError

DETECTOR = Path(__file__).parents[2] / "configs/demo/mask_rcnn_convnext_atto_shapes.py"
WRITERS = {"yolo": write_yolo, "voc": write_voc, "labelme": write_labelme, "cvat": write_cvat, "via": write_via}


@pytest.fixture
def coco(shapes_folder, tmp_path):
    root = tmp_path / "coco"
    root.mkdir()
    write_coco(shapes_folder, root)
    return root


@pytest.mark.parametrize("key", WRITERS)
def test_objects_of_every_format_are_those_of_coco(key, shapes_folder, coco, tmp_path):
    WRITERS[key](shapes_folder, tmp_path / "other")
    before = sorted(path for path in (tmp_path / "other").rglob("*"))
    assert recognise(tmp_path / "other") == (key, ["train", "val"])
    out, line = convert(tmp_path / "other", key, ["train", "val"], tmp_path / "cache")
    assert "2 splits (train, val), 12 images" in line
    assert sorted(path for path in (tmp_path / "other").rglob("*")) == before
    names = [name["name"] for name in json.loads((coco / "instances_train.json").read_text())["categories"]]
    for split in ("train", "val"):
        content = json.loads((out / f"instances_{split}.json").read_text())
        assert sorted(name["name"] for name in content["categories"]) == sorted(names)
        found = as_objects(out / f"instances_{split}.json", Path(content["images_in"]))
        expected = as_objects(coco / f"instances_{split}.json", coco / split)
        assert found.keys() == expected.keys()
        for pixels, objects in expected.items():
            for (name, box, mask), (other, other_box, other_mask) in zip(objects, found[pixels], strict=True):
                assert name == other
                np.testing.assert_allclose(other_box, box, atol=1)
                if key != "voc":
                    assert (mask & other_mask).sum() / (mask | other_mask).sum() >= 0.98


@pytest.mark.parametrize("key", [*WRITERS, "roboflow"])
def test_every_format_is_checked_drawn_and_evaluated(key, shapes_folder, tmp_path):
    {**WRITERS, "roboflow": write_roboflow}[key](shapes_folder, tmp_path / "other")
    cfg = read_config(DETECTOR)
    loaders = use_whole_folder(cfg, tmp_path / "other", work_dir=tmp_path / "work")
    is_right, report = report_data(cfg, loaders, overlay=tmp_path / "overlay.png")
    assert is_right, report
    assert "box AP 1.0000" in report
    assert (tmp_path / "overlay.png").is_file()
    assert cfg.model.roi_head.bbox_head.num_classes == 6


def test_conversion_is_kept_until_a_file_changes(shapes_folder, tmp_path, monkeypatch):
    write_yolo(shapes_folder, tmp_path / "yolo")
    first, line = convert(tmp_path / "yolo", "yolo", ["train", "val"], tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("convnext_dense.data.formats.yolo.read", None)
        assert convert(tmp_path / "yolo", "yolo", ["train", "val"], tmp_path / "cache") == (first, line)
    file = next((tmp_path / "yolo/labels/train").iterdir())
    file.write_text(file.read_text() + "0 0.5 0.5 0.1 0.1\n")
    second, _ = convert(tmp_path / "yolo", "yolo", ["train", "val"], tmp_path / "cache")
    assert second != first


@pytest.fixture
def yolo(shapes_folder, tmp_path):
    write_yolo(shapes_folder, tmp_path / "yolo")
    return tmp_path / "yolo"


def read_yolo(folder):
    key, splits = recognise(folder)
    return convert(folder, key, splits, folder.parent / "cache")[1]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0 0.5 0.5 0.1", r"line 1, has 4 values"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"line 1, has 6 values"),
        ("0 0.5 0.5 0.1 x", r"line 1, has 'x' as a value: it must be a number"),
        ("0 0.5 0.5 0.1 nan", r"line 1, has 'nan' as a value"),
        ("6 0.5 0.5 0.1 0.1", r"line 1, has the class 6: it must be a whole number from 0 to 5"),
        ("-1 0.5 0.5 0.1 0.1", r"line 1, has the class -1"),
        ("0.5 0.5 0.5 0.1 0.1", r"line 1, has the class 0.5"),
        ("0 50 50 10 10", r"line 1, has the place 50: it must be a share of the image's side"),
        ("0 0.5 0.5 0.1 0.1 0.2 0.2 -0.5 0.3", r"line 1, has the place -0.5"),
    ],
)
def test_wrong_line_of_yolo_is_named(yolo, line, text):
    file = sorted((yolo / "labels/val").iterdir())[0]
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=rf"Label file .*{file.name}, {text}"):
        read_yolo(yolo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nval: images/val\nnames: 5\n", "has no list of class names"),
        ("train: images/train\nval: images/val\nnames: {0: a, 2: b}\n", r"numbers its names \[0, 2\]"),
        ("train: images/train\nval: images/val\nnames: [a, a]\n", "names the class 'a' twice"),
        (
            "train: images/nowhere\nval: images/val\nnames: [a]\n",
            "names images/nowhere under 'train', which does not exist",
        ),
        ("train: images/train\nval: [3]\nnames: [a]\n", "has 3 under 'val'"),
        ("train: images/train\nval: images/val\nnames: [a\n", r"line \d+, is not YAML"),
        ("- names:\n- train:\n", "must have the keys names, train and val"),
    ],
)
def test_wrong_data_file_of_yolo_is_named(yolo, text, message):
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"Data file .*data.yaml.*{message}"):
        read_yolo(yolo)


def test_yolo_that_is_right_in_another_way_is_read(yolo):
    """Lists of images, names as a list, Roboflow's ../, boxes beside polygons, backgrounds, and what is left out."""
    images = sorted((yolo / "images/train").iterdir())
    (yolo / "train.txt").write_text("\n".join(f"./images/train/{path.name}" for path in images) + "\n\n")
    names = "[circle, square, triangle, star, cross, crescent]"
    (yolo / "data.yaml").write_text(f"train: train.txt\nval: ../images/val\nnc: 6\nnames: {names}\n")
    labels = [yolo / "labels/train" / f"{path.stem}.txt" for path in images[:3]]
    labels[0].write_text("0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.4 0.1 0.4 0.4\n1 0.1 0.1 0.4 0.1 0.4 0.4\n2 0.5 0.5 0 0.1\n\n")
    labels[1].write_text("")
    labels[2].unlink(missing_ok=True)
    line = read_yolo(yolo)
    assert "Ultralytics YOLO: 2 splits (train, val), 12 images" in line
    assert "1 lines that occur twice" in line
    assert "1 objects without area" in line
    assert "images without a label file are backgrounds" in line


@pytest.mark.parametrize("key", ["voc", "cvat"])
@pytest.mark.parametrize("damage", ["cut", "entity"])
def test_broken_xml_is_named_with_its_line(key, damage, shapes_folder, tmp_path):
    WRITERS[key](shapes_folder, tmp_path / "other")
    file = sorted((tmp_path / "other").rglob("*.xml"))[0]
    text = file.read_text()
    head = '<!DOCTYPE a [<!ENTITY b "c">]>\n'
    file.write_text(
        text[: len(text) // 2]
        if damage == "cut"
        else head + text.removeprefix("<?xml version='1.0' encoding='utf-8'?>")
    )
    with pytest.raises(UserError, match=rf"File .*{file.name}.* line \d+"):
        convert(tmp_path / "other", key, ["train", "val"], tmp_path / "cache")


def test_missing_image_is_named_with_its_source(shapes_folder, tmp_path):
    for key, write in WRITERS.items():
        write(shapes_folder, tmp_path / key)
        if key == "yolo":
            continue  # its images are listed by the folder
        image = sorted((tmp_path / key).rglob("*.jpg"))[0]
        image.unlink()
        with pytest.raises(UserError, match=rf"names the image .*{image.name}, which does not exist"):
            convert(tmp_path / key, key, ["train", "val"], tmp_path / "cache")


def test_format_can_be_named_and_must_be_there(yolo):
    cfg = read_config(DETECTOR)
    assert use_folder(cfg, yolo, data_format="yolo", work_dir=yolo.parent)[0] == "circle"
    with pytest.raises(UserError, match=r"--data-format voc: .* has no files of the format Pascal VOC"):
        use_folder(cfg, yolo, data_format="voc", work_dir=yolo.parent)


def test_embedded_images_of_labelme_are_written_into_the_cache(shapes_folder, tmp_path):
    write_labelme(shapes_folder, tmp_path / "other")
    for file in (tmp_path / "other").rglob("*.json"):
        content = json.loads(file.read_text())
        image = file.parent / content["imagePath"]
        content["imageData"] = base64.b64encode(image.read_bytes()).decode()
        file.write_text(json.dumps(content))
        image.unlink()
    out, _ = convert(tmp_path / "other", "labelme", ["train", "val"], tmp_path / "cache")
    content = json.loads((out / "instances_val.json").read_text())
    assert all((Path(content["images_in"]) / image["file_name"]).is_file() for image in content["images"])
    assert out in Path(content["images_in"]).parents
