"""Annotation files that are not quite in COCO's format, but have only one meaning: read, counted, said, and written."""

import copy
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as mask_api
from shapely.geometry import Polygon, box

from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.data_report import report_data
from convnext_dense.data.own.coco_repairs import as_number, repair
from convnext_dense.data.own.detection import forget_annotations, read_annotations, use_coco_folder
from convnext_dense.data.own.tasks import check_data, inspect_data, use_whole_folder
from convnext_dense.errors import UserError

CONFIG = "configs/demo/mask_rcnn_convnext_atto_shapes.py"


@pytest.fixture
def cfg(request, tmp_path):
    init_default_scope("mmdet")
    cfg = Config.fromfile(request.config.rootpath / CONFIG)
    cfg.work_dir = str(tmp_path / "work")
    yield cfg
    forget_annotations()


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def text(value):
    """Write every number of a value as text."""
    if isinstance(value, list):
        return [text(item) for item in value]
    if isinstance(value, dict):
        return {key: text(item) for key, item in value.items()}
    return repr(value) if type(value) in (int, float) else value


def each(key, change, entries="annotations", only=lambda entry: True):
    """Change a value of every entry; None removes it."""

    def damage(content, split):
        found = [entry for entry in content[entries] if only(entry)]
        for entry in found:
            value = entry.pop(key)
            if change is not None:
                entry[key] = change(value)
        return len(found)

    return damage


def renamed(prefix):
    def damage(content, split):
        for image in content["images"]:
            image["file_name"] = prefix.replace("SPLIT", split) + image["file_name"]
        return len(content["images"])

    return damage


def ids_of_images_as_text(content, split):
    each("id", text, "images")(content, split)
    return len(content["annotations"])


def other_order_in_val(content, split):
    if split == "val":
        content["categories"].reverse()
    return int(split == "val")


def is_polygons(entry):
    return isinstance(entry["segmentation"], list)


def is_run_lengths(entry):
    return isinstance(entry["segmentation"], dict)


def pointed(mask):
    return {key: [float(item) for item in value] for key, value in mask.items()}


def is_no_crowd(entry):
    return not entry["iscrowd"]


# What is done to both files -> what the check finds, how the first example reads.
ACCEPTED = {
    "no area": (each("area", None), "areas", r"Annotation 1 of .*train\.json has no area: .* from the mask, \d+\."),
    "null area": (each("area", lambda _: None), "areas", "has no area"),
    "area as text": (each("area", text), "numbers as text", r"has a number as text in area='\d+"),
    "no iscrowd": (
        each("iscrowd", None, only=is_no_crowd),
        "crowds",
        r"Annotation 1 .* has no iscrowd: it is read as 0",
    ),
    "Boolean iscrowd": (each("iscrowd", bool), "crowds", "has iscrowd=False: it is read as 0"),
    "iscrowd as text": (each("iscrowd", text), "numbers as text", "iscrowd='0'"),
    "box as text": (each("bbox", text), "numbers as text", r"in bbox=\['\d+"),
    "no box": (each("bbox", None), "boxes", r"has no box: it is calculated from the mask, \[\d+, "),
    "empty box": (each("bbox", lambda _: []), "boxes", "has no box"),
    "masks as text": (each("segmentation", text), "numbers as text", r"in segmentation=\[\['"),
    "run lengths with a point": (
        each("segmentation", pointed, only=is_run_lengths),
        "whole numbers with a point",
        "has run lengths with a point: they are read as whole numbers",
    ),
    "line in a mask": (
        each("segmentation", lambda mask: [*mask, [1, 1, 2, 2]], only=is_polygons),
        "masks",
        "of fewer than 3 corners: it is left out of the mask",
    ),
    "empty polygon": (each("segmentation", lambda mask: [[], *mask], only=is_polygons), "masks", "of fewer than 3"),
    "no ids": (each("id", None), "annotation ids", r"train\.json has annotations without an id: .* from 1\."),
    "image ids as text": (each("image_id", text), "numbers as text", r"has image_id='\d+': it is the id \d+\."),
    "category ids as text": (each("category_id", text), "numbers as text", r"has category_id='\d': it is the id \d\."),
    "ids of images as text": (ids_of_images_as_text, "numbers as text", r"has image_id=1: it is the id '1'\."),
    "height as text": (each("height", text, "images"), "numbers as text", r"entry 0 of 'images' has height='\d+'"),
    "width with a point": (each("width", float, "images"), "whole numbers with a point", r"width=\d+\.0: it is read"),
    "no height": (each("height", None, "images"), "sizes of images", r"has no height: it is read from the image, \d+x"),
    "null width": (each("width", lambda _: None, "images"), "sizes of images", "entry 0 of 'images' has no width"),
    "backslashes": (renamed(".\\"), "file names", r"names the file '\.\\0+1\.jpg': it is '0+1\.jpg' in"),
    "backslashes and folder": (renamed("SPLIT\\"), "file names", r"names the file 'train\\0+1\.jpg': it is '0+1\.jpg'"),
    "dot, folders": (
        renamed("./own/SPLIT/"),
        "file names",
        r"names the file '\./own/train/0+1\.jpg': it is '0+1\.jpg'",
    ),
    "order": (
        other_order_in_val,
        "order of categories",
        "another order than 'even', 'odd': they are read in this order",
    ),
}


def objects_of(cfg, loader):
    """What mmdet's own data set reads."""
    from mmdet.registry import DATASETS

    data = DATASETS.build(cfg[f"{loader}_dataloader"].dataset)
    infos = [data.get_data_info(index) for index in range(len(data))]
    return [
        (
            Path(info["img_path"]).resolve(),
            info["height"],
            info["width"],
            [(item["bbox_label"], item["ignore_flag"], item["bbox"], item["mask"]) for item in info["instances"]],
        )
        for info in infos
    ]


def findings_of(cfg, folder):
    inspection = Inspection()
    inspect_data(cfg, use_whole_folder(cfg, folder), inspection)
    return inspection


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_has_one_meaning_is_read_counted_and_said(cfg, own_folder, case):
    """mmdet's data set reads the same objects as from the undamaged files; boxes of masks are those to a pixel."""
    damage, check, example = ACCEPTED[case]
    whole = copy.deepcopy(cfg)
    use_coco_folder(whole, own_folder)
    expected = {split: objects_of(whole, split) for split in ("train", "val")}
    times, written = 0, {}
    for split in ("train", "val"):
        path = own_folder / f"instances_{split}.json"
        content = json.loads(path.read_text())
        times += damage(content, split)
        path.write_text(json.dumps(content))
        written[path] = path.read_bytes()
    forget_annotations()
    inspection = findings_of(cfg, own_folder)
    assert not inspection.of("error")
    (finding,) = inspection.of("repaired")
    assert (finding.check, finding.times) == (check, times)
    assert re.search(example, finding.example), finding.example
    assert any(line.startswith(f"Repaired: {finding.example}") for line in inspection.sentences())
    assert all(path.read_bytes() == content for path, content in written.items())
    for split, images in expected.items():
        for image, other in zip(objects_of(cfg, split), images, strict=True):
            assert image[:3] == other[:3]
            for mine, theirs in zip(image[3], other[3], strict=True):
                assert (mine[:2], mine[3]) == (theirs[:2], theirs[3])
                np.testing.assert_allclose(mine[2], theirs[2], atol=1.01 if check == "boxes" else 0)


def test_many_liberties_at_once_have_an_ap_of_one_and_change_the_config(cfg, own_folder, tmp_path):
    for split in ("train", "val"):
        for damage, _, _ in (ACCEPTED[name] for name in ("no area", "no ids", "image ids as text", "backslashes")):
            edit(own_folder / f"instances_{split}.json", lambda content, d=damage, s=split: d(content, s))
    is_right, report = report_data(cfg, use_whole_folder(cfg, own_folder), overlay=tmp_path / "sheet.png")
    assert is_right, report
    assert "has box AP 1.0000, mask AP 1.0000" in report
    assert sum(line.startswith("repaired ") for line in report.splitlines()) == 4
    assert "Overlay of " in report
    converted = Path(cfg.train_dataloader.dataset.ann_file)
    assert converted.name == "instances_train.json"
    assert converted.parents[1] == (tmp_path / "work/converted").resolve()
    assert Path(cfg.val_evaluator.ann_file) == Path(cfg.val_dataloader.dataset.ann_file) != converted
    content = json.loads(converted.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for item in content["annotations"]:
        assert item["area"] == pytest.approx(area_of(item["segmentation"], *sizes[item["image_id"]]), abs=1e-3)


def area_of(mask, height, width):
    """Of polygons by shapely, of run lengths in pixels by pycocotools."""
    if isinstance(mask, list):
        image = box(0, 0, width, height)
        return sum(Polygon(zip(part[::2], part[1::2], strict=True)).intersection(image).area for part in mask)
    return mask_api.decode(mask_api.frPyObjects(mask, height, width)).sum()


def test_areas_and_boxes_of_masks_by_hand():
    """A square with one corner outside, two triangles whose areas add up, and a column of pixels."""
    masks = {
        "square": [[-2, 1, 3, 1, 3, 5, -2, 5]],
        "triangles": [[0, 0, 4, 0, 0, 4], [6, 6, 6, 8, 8, 8, 6, 6]],  # the second one is closed
        "column": dict(size=[10, 20], counts=[33, 4, 163]),
        "none": [],
    }
    images = [dict(id=1, height=10, width=20)]
    annotations = [dict(id=name, image_id=1, category_id=1, segmentation=mask) for name, mask in masks.items()]
    annotations[-1]["bbox"] = [1, 2, 3, 4.5]
    repairs = repair(dict(images=images, categories=[dict(id=1)], annotations=annotations), Path("file.json"))
    assert [item["area"] for item in annotations] == [12, 10, 4, 13.5]
    assert [item["bbox"] for item in annotations] == [[0, 1, 3, 4], [0, 0, 8, 8], [3, 3, 1, 4], [1, 2, 3, 4.5]]
    assert {kind: times for kind, (times, _) in repairs.found.items()} == {"crowds": 4, "areas": 4, "boxes": 3}


def test_good_files_are_read_as_they_are(cfg, own_folder, tmp_path):
    assert not findings_of(cfg, own_folder).of("repaired")
    assert cfg.train_dataloader.dataset.ann_file == "instances_train.json"
    assert cfg.val_evaluator.ann_file == str(own_folder / "instances_val.json")
    assert not (tmp_path / "work").exists()


def test_file_is_written_once_and_again_after_a_change(cfg, own_folder, tmp_path):
    path = own_folder / "instances_train.json"
    edit(path, lambda content: content["annotations"][0].pop("area"))

    def converted():
        forget_annotations()
        again = copy.deepcopy(cfg)
        use_coco_folder(again, own_folder)
        check_data(again, ("train", "val"))
        return Path(again.train_dataloader.dataset.ann_file)

    first = converted()
    state = first.stat()
    assert converted() == first
    assert first.stat().st_mtime_ns == state.st_mtime_ns
    edit(path, lambda content: content["annotations"][1].pop("area"))
    second = converted()
    assert second != first
    assert [file.name for file in second.parent.iterdir()] == ["instances_train.json"]
    # A size that is read from an image depends on that image.
    edit(path, lambda content: content["images"][0].pop("width"))
    third = converted()
    image = own_folder / "train/000000000001.jpg"
    Image.open(image).resize((96, 96)).save(image)
    fourth = converted()
    assert fourth not in (first, second, third)
    assert json.loads(fourth.read_text())["images"][0]["width"] == 96


def test_data_that_the_config_names_is_repaired_too(cfg, own_folder):
    use_coco_folder(cfg, own_folder)
    forget_annotations()
    edit(own_folder / "instances_val.json", lambda content: content["annotations"][2].pop("area"))
    cfg.val_dataloader.dataset.metainfo.classes = cfg.train_dataloader.dataset.metainfo.classes = ("odd", "even")
    cfg.test_dataloader.dataset.metainfo.classes = ("odd", "even")
    lines = check_data(cfg, ("train", "val", "test"))
    assert any(line.startswith("Repaired: Annotation 3 of ") for line in lines)
    for loader in ("train", "val", "test"):
        dataset = cfg[f"{loader}_dataloader"].dataset
        assert [item["name"] for item in json.loads(Path(dataset.ann_file).read_text())["categories"]] == [
            "odd",
            "even",
        ]
    assert cfg.test_evaluator.ann_file == cfg.test_dataloader.dataset.ann_file


def test_one_file_cannot_have_two_orders_of_classes(cfg, own_folder):
    shutil.copy(own_folder / "instances_train.json", own_folder / "instances_val.json")
    use_coco_folder(cfg, own_folder)
    cfg.val_dataloader.dataset.update(ann_file="instances_train.json", data_prefix=dict(img="train/"))
    cfg.val_dataloader.dataset.metainfo.classes = ("odd", "even")
    with pytest.raises(UserError, match=r"its classes in different orders, 'even', 'odd' and 'odd', 'even'"):
        check_data(cfg, ("train", "val"))


def no_size(content):
    content["annotations"][0]["bbox"][2:] = [0, 5]
    content["annotations"][2]["bbox"][2:] = ["7.5", 0.0]


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_of_no_size_are_left_out_of_evaluation_as_mmdet_leaves_them_out_of_training(cfg, own_folder, split):
    path = own_folder / f"instances_{split}.json"
    edit(path, no_size)
    inspection = findings_of(cfg, own_folder)
    assert not inspection.of("error")
    assert not [finding for finding in inspection.of("warning") if finding.check == "boxes without area"]
    found = {finding.check: finding for finding in inspection.of("repaired")}
    assert found["boxes of no size"].times == 2
    assert "without a width or height are left out" in found["boxes of no size"].example
    read = sum(len(objects) for *_, objects in objects_of(cfg, split))
    assert read == len(json.loads(path.read_text())["annotations"]) - 2


def test_training_file_with_boxes_of_no_size_alone_is_not_written_anew(cfg, own_folder):
    """COCO's train2017 has such a box; its 450 MB are read as they are."""
    edit(own_folder / "instances_train.json", lambda content: content["annotations"][0].update(bbox=[1, 2, 3, 0]))
    assert [finding.check for finding in findings_of(cfg, own_folder).of("repaired")] == ["boxes of no size"]
    assert cfg.train_dataloader.dataset.ann_file == "instances_train.json"


KEPT = {
    "text that is no number": (lambda item: item.update(area="12 px"), "has the area '12 px'"),
    "comma": (lambda item: item.update(bbox=["1,5", 2, 3, 4]), r"has the box \['1,5', 2, 3, 4\]"),
    "NaN as text": (lambda item: item.update(area="nan"), "has the area 'nan'"),
    "NaN": (lambda item: item.update(bbox=[1, 2, float("nan"), 4]), "has the box"),
    "infinity as text": (lambda item: item.update(bbox=[1, 2, "1e999", 4]), "has the box"),
    "negative width as text": (lambda item: item.update(bbox=[1, 2, "-3", 4]), r"has the box \[1, 2, -3, 4\]"),
    "negative area": (lambda item: item.update(area=-1), "has the area -1"),
    "Boolean in a box": (lambda item: item.update(bbox=[1, 2, True, 4]), "has the box"),
    "iscrowd of two, as text": (lambda item: item.update(iscrowd="2"), "has iscrowd=2"),
    "id with a zero before it": (lambda item: item.update(image_id="001"), "names the image '001'"),
    "no image": (lambda item: item.pop("image_id"), "names the image None"),
    "no class": (lambda item: item.pop("category_id"), "names the category None"),
    "neither box nor mask": (lambda item: (item.pop("bbox"), item.pop("segmentation")), "has the box None"),
    "odd polygon as text": (lambda item: item.update(segmentation=[["1"] * 7]), "odd number of values, 7"),
    "two corners alone": (lambda item: item.update(segmentation=[[1, 1, 9, 9]]), "a polygon of 4 values"),
    "mask of digits": (lambda item: item.update(segmentation="12"), "neither polygons nor run lengths but str"),
    "no size, in no image": (lambda item: item.update(bbox=[1, 1, 0, 0], image_id=99), "names the image 99"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_could_mean_two_things_stays_an_error(cfg, own_folder, case):
    change, message = KEPT[case]
    edit(own_folder / "instances_train.json", lambda content: change(content["annotations"][0]))
    use_coco_folder(cfg, own_folder)
    with pytest.raises(UserError, match=message):
        check_data(cfg, ("train", "val"))
    assert not Path(cfg.work_dir).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["images"][1].update(id="1"), "has the image ids .*1.* which are the same number"),
        (lambda content: content["categories"][1].update(id="0.0"), "has the category ids .*which are the same number"),
        (
            lambda content: content["annotations"][1].update(id="1"),
            "has the annotation ids 1 and '1', which are the same",
        ),
        (lambda content: content["images"][0].update(height=96.5), r"has height=96\.5; it must be a whole number"),
        (lambda content: content["images"][0].update(height=1e300), r"has height=1e\+300; it must be a whole number"),
        (
            lambda content: content["images"][0].update(file_name="..\\train\\000000000001.jpg"),
            "leads out of the image",
        ),
        (lambda content: content["images"][0].update(file_name="none.jpg", width=None), r"none\.jpg does not exist"),
    ],
)
def test_files_that_cannot_be_understood_are_refused_at_once(cfg, own_folder, change, message):
    edit(own_folder / "instances_train.json", change)
    with pytest.raises(UserError, match=message):
        use_coco_folder(cfg, own_folder)


def test_image_that_claims_too_many_pixels_has_no_size_to_read(cfg, own_folder):
    """The size stands in the header, which is all that is read of such a file."""
    path = own_folder / "train/000000000001.png"
    Image.new("1", (20000, 20000)).save(path)
    edit(
        own_folder / "instances_train.json",
        lambda content: content["images"][0].update(file_name=path.name, height=None, width=None),
    )
    with pytest.raises(UserError, match="claims 20000x20000 pixels"):
        use_coco_folder(cfg, own_folder)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("12", 12),
        (" -3.5 ", -3.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("+7", 7),
        ("", ""),
        ("1_0", "1_0"),
        ("0x1", "0x1"),
        ("inf", "inf"),
        ("\u0663", "\u0663"),
        (None, None),
        (True, True),
    ],
)
def test_texts_of_numbers(value, number):
    assert as_number(value) == number
    assert type(as_number(value)) is type(number)


def test_new_ids_follow_the_largest_one():
    annotations = [dict(id=7), dict(id="12"), {}, dict(id=None), dict(id=[1]), dict(id=float("nan"))]
    repair(dict(images=[], categories=[], annotations=annotations), Path("file.json"))
    assert [item["id"] for item in annotations[:4]] == [7, "12", 13, 14]


@pytest.mark.parametrize("content", [None, [], 1, {}, dict(images=3), dict(annotations=[[], None, {}], images=[None])])
def test_what_is_not_coco_is_left_to_the_checks(content):
    repair(content, Path("file.json"))


def test_annotations_of_a_file_alone_are_repaired_without_its_images(own_folder):
    path = own_folder / "instances_val.json"
    edit(path, lambda content: content["annotations"][0].update(area="12"))
    assert read_annotations(path)["annotations"][0]["area"] == 12
    forget_annotations()


def test_command_accepts_and_lists_what_it_once_refused(request, own_folder, tmp_path, monkeypatch, capsys):
    """An area that is missing, and text in a height, a box and a polygon."""

    def change(content):
        first, second, third = content["annotations"][:3]
        content["images"][0]["height"] = str(content["images"][0]["height"])
        first.pop("area")
        second["bbox"][2] = str(second["bbox"][2])
        third["segmentation"][0][4] = str(third["segmentation"][0][4])

    edit(own_folder / "instances_train.json", change)
    tool = request.config.rootpath / "tools/check_dataset.py"
    arguments = [request.config.rootpath / CONFIG, "--data", own_folder, "--overlay", tmp_path / "sheet.png"]
    monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tool), run_name="__main__")
    report = capsys.readouterr().out
    assert end.value.code == 0, report
    rows = [line.split(maxsplit=1)[1] for line in report.splitlines() if line.startswith("repaired")]
    assert [re.split(r"  +", row)[:2] for row in rows] == [["numbers as text", "3"], ["areas", "1"]]
    assert report.rstrip().endswith("0 errors, 0 warnings.")
    assert list(tmp_path.glob("work_dirs/*/converted/coco-*/instances_train.json"))


def test_ids_that_count_the_objects_of_each_image_are_renumbered():
    content = dict(
        images=[dict(id=1, file_name="a.jpg", height=9, width=9), dict(id=2, file_name="b.jpg", height=9, width=9)],
        categories=[dict(id=1, name="a")],
        annotations=[
            dict(id=1, image_id=image, category_id=1, bbox=[image, 1, 2, 2], area=4, iscrowd=0) for image in (1, 2)
        ],
    )
    repairs = repair(content, Path("x.json"))
    assert [item["id"] for item in content["annotations"]] == [1, 2]
    assert repairs.found["annotation ids"][0] == 1
