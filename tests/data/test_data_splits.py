"""Which splits a folder needs for each use, and tests without ground truth."""

import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from convnext_dense.config.class_counts import set_num_classes
from convnext_dense.config.predicting import leave_out_labels, only_predicts
from convnext_dense.data.data_folder import DataFolder
from convnext_dense.data.data_report import report_data
from convnext_dense.data.own.tasks import check_data, use_folder, use_whole_folder
from convnext_dense.engine import evaluate_model

DETECTOR = "configs/demo/mask_rcnn_convnext_atto_shapes.py"
SEGMENTER = "configs/demo/upernet_convnext_atto_shapes.py"
CLASSIFIER = "configs/demo/convnext_atto_small_images.py"
NOW = {"test_dataloader.num_workers": 0, "test_dataloader.persistent_workers": False}


@pytest.fixture
def config(request):
    """Read one of the demo's configs."""

    def read(name):
        cfg = Config.fromfile(request.config.rootpath / name)
        init_default_scope(cfg.get("default_scope", "mmengine"))
        return cfg

    return read


@pytest.fixture
def class_folders(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "classes" / split / name).mkdir(parents=True)
            for number in range(8):
                image = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
                Image.fromarray(image).save(tmp_path / "classes" / split / name / f"{number}.png")
    return tmp_path / "classes"


def keep_only_val(folder):
    for path in (folder / "train", folder / "semantic/train"):
        shutil.rmtree(path, ignore_errors=True)
    (folder / "instances_train.json").unlink(missing_ok=True)


def add_test(folder, num_images=3):
    """Make a test split of the first images of val, and return its annotations."""
    shutil.copytree(folder / "val", folder / "test")
    content = json.loads((folder / "instances_val.json").read_text())
    content["images"] = content["images"][:num_images]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    return content


def save_untrained(cfg, classes, path):
    set_num_classes(cfg.model, len(classes))
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=tuple(classes)))), path)
    return str(path)


def test_val_alone_is_enough_to_test_and_no_other_data_set_is_touched(
    config, own_folder, two_class_folder, class_folders
):
    for name, folder in ((DETECTOR, own_folder), (SEGMENTER, two_class_folder), (CLASSIFIER, class_folders)):
        keep_only_val(folder)
        shutil.rmtree(folder / "test", ignore_errors=True)
        cfg = config(name)
        before = cfg.train_dataloader.dataset.to_dict()
        names = use_folder(cfg, folder, splits={"test": "val"})
        assert len(names) == 2
        assert cfg.train_dataloader.dataset.to_dict() == before
        assert any(str(folder) in line for line in check_data(cfg, ("test",)))
        with pytest.raises(ValueError, match=r"'?train'?.*'val'"):
            use_folder(config(name), folder)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("instances_test.json", "test"),
        ("annotations/instances_test2017.json", "test2017"),
        ("annotations/instances_test.json", "test"),
    ],
)
def test_a_test_split_with_objects_is_tested_on_request(config, own_folder, annotations, images):
    content = add_test(own_folder)
    (own_folder / "annotations").mkdir()
    (own_folder / annotations).write_text(json.dumps(content))
    (own_folder / "test").rename(own_folder / images)
    cfg = config(DETECTOR)
    use_folder(cfg, own_folder, splits={"test": "test"})
    assert cfg.test_dataloader.dataset.ann_file == annotations
    assert cfg.test_dataloader.dataset.data_prefix.img == f"{images}/"
    assert cfg.test_evaluator.ann_file == str(own_folder / annotations)
    assert "3 images" in check_data(cfg, ("test",))[0]
    assert not only_predicts(cfg, "test")
    use_folder(cfg, own_folder)
    assert "4 images" in check_data(cfg, ("test",))[0]  # val, as before


@pytest.mark.parametrize(
    ("images", "labels", "name"),
    [
        ("{}", "semantic/{}", "test"),
        ("images/{}", "labels/{}", "test"),
        ("img_dir/{}", "ann_dir/{}", "test"),
        ("images/{}", "annotations/{}", "testing"),
        ("images/{}", "annotations/{}", "test"),
    ],
)
def test_test_splits_of_every_segmentation_layout_are_found(config, two_class_folder, tmp_path, images, labels, name):
    root = tmp_path / "other"
    shutil.copytree(two_class_folder / "val", root / images.format(name))
    shutil.copytree(two_class_folder / "semantic/val", root / labels.format(name))
    cfg = config(SEGMENTER)
    use_folder(cfg, DataFolder(str(root), classes=["a", "b"]), splits={"test": "test"})
    assert cfg.test_dataloader.dataset.data_prefix == {
        "img_path": images.format(name),
        "seg_map_path": labels.format(name),
    }
    assert cfg.test_dataloader.dataset.reduce_zero_label is (labels == "annotations/{}")
    shutil.rmtree(root / labels.format(name))
    use_folder(cfg, DataFolder(str(root), classes=["a", "b"]), splits={"test": "test"})
    assert cfg.test_dataloader.dataset.data_prefix == {"img_path": images.format(name)}


def test_splits_of_classes_are_found(config, class_folders):
    cfg = config(CLASSIFIER)
    use_folder(cfg, class_folders, splits={"test": "test"})
    assert cfg.test_dataloader.dataset.root == str(class_folders / "test")


@pytest.mark.parametrize("name", [DETECTOR, SEGMENTER, CLASSIFIER])
def test_missing_split_is_reported_with_the_existing_ones(config, own_folder, two_class_folder, class_folders, name):
    folder = {DETECTOR: own_folder, SEGMENTER: two_class_folder, CLASSIFIER: class_folders}[name]
    shutil.rmtree(folder / "test", ignore_errors=True)
    with pytest.raises(ValueError, match=r"^--data .*test.*'train', 'val'\. Expected:"):
        use_folder(config(name), folder, splits={"test": "test"})


def test_withheld_objects_leave_only_predictions(config, own_folder):
    """COCO's own test file has images and categories, and no annotations."""
    content = add_test(own_folder)
    content.pop("annotations")
    (own_folder / "image_info_test.json").write_text(json.dumps(content))
    cfg = config(DETECTOR)
    use_folder(cfg, own_folder, splits={"test": "test"})
    assert not only_predicts(cfg, "test")
    assert any("has no annotations: there is nothing to evaluate" in line for line in check_data(cfg, ("test",)))
    assert only_predicts(cfg, "test")
    shutil.copy(own_folder / "image_info_test.json", own_folder / "instances_train.json")
    with pytest.raises(ValueError, match=r"instances_train\.json has no list 'annotations'"):
        use_folder(cfg, own_folder)


@pytest.mark.parametrize("has_list", [True, False])
def test_images_without_categories_take_those_of_the_folder_then_of_the_checkpoint(config, own_folder, has_list):
    """Category ids 0 and 5 of train and val return in the results; a checkpoint's names count from 1."""
    content = add_test(own_folder)
    if has_list:
        (own_folder / "image_info_test.json").write_text(json.dumps(dict(images=content["images"])))
    cfg = config(DETECTOR)
    assert use_folder(cfg, own_folder, splits={"test": "test"}) == ["even", "odd"]
    written = json.loads((own_folder / cfg.test_evaluator.ann_file).read_text())
    assert [(item["id"], item["name"]) for item in written["categories"]] == [(0, "even"), (5, "odd")]
    assert len(written["images"]) == (3 if has_list else 4)
    check_data(cfg, ("test",))
    assert only_predicts(cfg, "test")
    for split in ("train", "val"):
        (own_folder / f"instances_{split}.json").unlink()
    assert use_folder(cfg, own_folder, ("a", "b"), splits={"test": "test"}) == ["a", "b"]
    written = json.loads((own_folder / cfg.test_evaluator.ann_file).read_text())
    assert [(item["id"], item["name"]) for item in written["categories"]] == [(1, "a"), (2, "b")]
    with pytest.raises(ValueError, match="have no categories, and neither the other splits nor the checkpoint name"):
        use_folder(cfg, own_folder, splits={"test": "test"})


def test_listed_images_have_the_sizes_at_which_they_are_read(config, own_folder):
    """A camera's picture stored on its side is turned when it is read, so the check of sizes finds nothing."""
    shutil.rmtree(own_folder / "val")
    (own_folder / "val/more").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(own_folder / "val/more/side.jpg", exif=exif)
    Image.new("RGB", (40, 30)).save(own_folder / "val/a.png")
    (own_folder / "instances_val.json").unlink()
    cfg = config(DETECTOR)
    use_folder(cfg, own_folder, splits={"test": "val"})
    images = json.loads((own_folder / cfg.test_evaluator.ann_file).read_text())["images"]
    assert [(image["id"], image["height"], image["width"]) for image in images] == [
        ("a.png", 30, 40),
        ("more/side.jpg", 40, 30),
    ]
    check_data(cfg, ("test",))


def test_labels_are_left_out_of_pipelines_with_augmentation_too():
    load, pack = dict(type="LoadAnnotations"), dict(type="PackSegInputs")
    flips = [[dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)], [load], [pack]]
    cfg = Config(
        dict(
            test_dataloader=dict(dataset=dict(pipeline=[dict(type="LoadImageFromFile"), dict(load), pack])),
            tta_pipeline=[dict(type="LoadImageFromFile"), dict(type="TestTimeAug", transforms=flips)],
        )
    )
    leave_out_labels(cfg, "test")
    assert [step.type for step in cfg.test_dataloader.dataset.pipeline] == ["LoadImageFromFile", "PackSegInputs"]
    assert [[step.type for step in steps] for steps in cfg.tta_pipeline[1].transforms] == [
        ["RandomFlip", "RandomFlip"],
        ["PackSegInputs"],
    ]


def test_detector_writes_predictions_of_images_without_objects(request, config, own_folder, tmp_path):
    shutil.copytree(own_folder / "val", own_folder / "test")
    checkpoint = save_untrained(config(DETECTOR), ["even", "odd"], tmp_path / "c.pth")
    arguments = dict(data=str(own_folder), split="test", work_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"no ground truth in the test split of .*: give --out to write predictions"):
        evaluate_model(request.config.rootpath / DETECTOR, checkpoint, NOW, **arguments)
    out = tmp_path / "found.json"
    assert evaluate_model(request.config.rootpath / DETECTOR, checkpoint, NOW, out=str(out), **arguments) == {}
    boxes = json.loads((tmp_path / "found.bbox.json").read_text())
    assert {box["image_id"] for box in boxes} <= {path.name for path in (own_folder / "test").iterdir()}
    assert {box["category_id"] for box in boxes} <= {0, 5}
    assert "No metric: there is no ground truth" in next((tmp_path / "run").rglob("*.log")).read_text()
    with pytest.raises(ValueError, match="--split test names a split of a folder that is given with --data DIR"):
        evaluate_model(request.config.rootpath / DETECTOR, checkpoint, NOW, split="test")


def test_segmenter_writes_predictions_of_images_without_labels(request, config, two_class_folder, tmp_path):
    shutil.rmtree(two_class_folder / "semantic/val")
    checkpoint = save_untrained(config(SEGMENTER), ["background", "shape"], tmp_path / "c.pth")
    arguments = dict(data=str(two_class_folder), work_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"no ground truth in the val split of .*: give --out to write predictions"):
        evaluate_model(request.config.rootpath / SEGMENTER, checkpoint, NOW, **arguments)
    out = tmp_path / "out"
    assert evaluate_model(request.config.rootpath / SEGMENTER, checkpoint, NOW, out=str(out), **arguments) == {}
    for image in (two_class_folder / "val").iterdir():
        label = Image.open(out / f"{image.stem}.png")
        assert label.size == Image.open(image).size


def test_check_covers_the_existing_splits(config, own_folder):
    content = add_test(own_folder)
    content.pop("annotations")
    (own_folder / "image_info_test.json").write_text(json.dumps(content))
    cfg = config(DETECTOR)
    loaders = use_whole_folder(cfg, own_folder)
    assert loaders == ["train", "val", "test"]
    is_right, report = report_data(cfg, loaders)
    assert "image_info_test.json: 3 images" in report
    assert "Round trip: the ground truth of val" in report
    assert is_right

    shutil.rmtree(own_folder / "test")
    (own_folder / "image_info_test.json").unlink()
    keep_only_val(own_folder)
    cfg = config(DETECTOR)
    loaders = use_whole_folder(cfg, own_folder)
    assert loaders == ["val", "test"]
    is_right, report = report_data(cfg, loaders)
    assert is_right
    assert "There is no train split" in report
    assert "1 warnings" in report
