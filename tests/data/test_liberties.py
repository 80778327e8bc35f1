"""What people's files have beside what the documentation of their format says; expected values are by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.formats.annotations import ellipse_corners, rotated
from convnext_dense.data.own.converting import convert
from convnext_dense.errors import UserError


def image(path, size=(100, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def boxes(folder, split="train"):
    """Return the line about a folder, and (file, class, box) of each object of a split."""
    out, line = convert(DataFolder(str(folder)), "detection", folder.parent / "cache")
    content = json.loads((out / f"instances_{split}.json").read_text())
    files = {each["id"]: Path(each["file_name"]).name for each in content["images"]}
    names = {each["id"]: each["name"] for each in content["categories"]}
    found = [(files[each["image_id"]], names[each["category_id"]], each["bbox"]) for each in content["annotations"]]
    return line, sorted(found)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def write_cvat(root, *images):
    for name in ("a.jpg", "b.jpg"):
        image(root / "images" / name)
    (root / "annotations.xml").write_text(f"<annotations>{''.join(images)}</annotations>")


def test_subsets_of_cvat_are_apart_and_others_are_train(root):
    box = '<box label="cat" xtl="10" ytl="20" xbr="30" ybr="50"/>'
    write_cvat(
        root,
        f'<image name="a.jpg" subset="default" width="100" height="80">{box}</image>',
        f'<image name="b.jpg" subset="Validation" width="100" height="80">{box}</image>',
    )
    assert boxes(root)[1] == [("a.jpg", "cat", [10, 20, 20, 30])]
    assert boxes(root, "val")[1] == [("b.jpg", "cat", [10, 20, 20, 30])]


def test_rotation_of_cvat_turns_shapes_clockwise(root):
    write_cvat(
        root,
        '<image name="a.jpg" width="100" height="80">'
        '<box label="box" xtl="10" ytl="30" xbr="50" ybr="40" rotation="90"/>'
        '<ellipse label="round" cx="50" cy="40" rx="30" ry="5" rotation="90"/></image>',
    )
    found = {name: box for _, name, box in boxes(root)[1]}
    np.testing.assert_allclose(found["box"], [25, 15, 10, 40])  # around (30, 35)
    np.testing.assert_allclose(found["round"], [45, 10, 10, 60], atol=0.1)


def test_polygon_is_turned_clockwise_where_y_points_down():
    np.testing.assert_allclose(rotated([0, 0, 4, 0, 4, 2, 0, 2], 90), [3, -1, 3, 3, 1, 3, 1, -1], atol=1e-12)
    corners = np.reshape(ellipse_corners(0, 0, 4, 1, degrees=90), (-1, 2))
    np.testing.assert_allclose(np.abs(corners).max(axis=0), [1, 4])


def test_keypoints_of_yolo_are_left_out(root):
    image(root / "images/train/a.jpg")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("0 .5 .5 .2 .2 .45 .45 1 .5 .5 2 .55 .55 0\n")
    (root / "data.yaml").write_text("train: images/train\nvalid: images/train\nkpt_shape: [3, 3]\nnames: [on, off]\n")
    line, found = boxes(root, "val")  # `valid` is a name of val, and `on` one of a class
    assert found == [("a.jpg", "on", [40, 32, 20, 16])]
    assert "keypoints of objects" in line


def test_lists_of_darknet_and_labels_beside_images_are_read(root):
    for name in ("a", "b"):
        image(root / f"obj/{name}.jpg")
        (root / f"obj/{name}.txt").write_text("0 0.5 0.5 0.2 0.5\n")
    (root / "obj.names").write_text("cat\n")
    (root / "train.txt").write_text("data/obj/a.jpg\n")
    (root / "test.txt").write_text("data/obj/b.jpg\n")
    assert boxes(root)[1] == [("a.jpg", "cat", [40, 20, 20, 40])]
    assert boxes(root, "test")[1] == [("b.jpg", "cat", [40, 20, 20, 40])]


def test_test_split_that_is_named_and_not_there_is_left_out(root):
    image(root / "train/images/a.jpg")
    (root / "train/labels").mkdir()
    (root / "train/labels/a.txt").write_text("0 0.5 0.5 0.2 0.5\n")
    (root / "data.yaml").write_text("train: train/images\nval: train/images\ntest: ../test/images\nnames: ['cat']\n")
    assert "2 splits (train, val)" in boxes(root)[0]


@pytest.mark.parametrize("size", [(1000, 800), (80, 100)])
def test_size_that_is_not_the_images_is_refused(size, root):
    image(root / "train/a.jpg")
    (root / "train/a.xml").write_text(
        f"<annotation><filename>a.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        "</annotation>"
    )
    with pytest.raises(UserError, match=rf"a\.xml gives the image .*a\.jpg a height of {size[1]} pixels"):
        boxes(root)


def test_rectangle_of_labelme_may_have_four_corners(root):
    image(root / "train/a.jpg")
    corners = [[10, 10], [50, 10], [50, 40], [10, 40]]
    shape = dict(label="cat", shape_type="rectangle", points=corners)
    (root / "train/a.json").write_text(json.dumps(dict(shapes=[shape], imagePath="a.jpg")))
    assert boxes(root)[1] == [("a.jpg", "cat", [10, 10, 40, 30])]


def test_images_that_nothing_names_and_other_formats_are_said(root):
    for name in ("a", "b", "c"):
        image(root / f"train/{name}.jpg")
    (root / "train/a.xml").write_text(
        "<annotation><filename>a.jpg</filename><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox></object></annotation>"
    )
    (root / "train/b.json").write_text(json.dumps(dict(shapes=[], imagePath="b.jpg")))
    line, _ = boxes(root)
    assert "2 images of the folder that are not read" in line
    assert "--data-format labelme reads instead" in line


def test_split_without_objects_is_read(root):
    for split in ("train", "val"):
        image(root / f"images/{split}/a.jpg")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.2 0.5\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: ['cat']\n")
    line, found = boxes(root, "val")
    assert found == []
    assert "2 images (1 without objects)" in line
