"""Custom folders and checks before training: every error names the file and the value."""

import json

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.data.data_report import report_data
from convnext_dense.data.own import detection
from convnext_dense.data.own.detection import use_coco_folder
from convnext_dense.data.own.tasks import check_data, use_whole_folder

CONFIG = "configs/demo/mask_rcnn_convnext_atto_shapes.py"
NAMES = ["even", "odd"]


@pytest.fixture
def cfg(request):
    init_default_scope("mmdet")
    return Config.fromfile(request.config.rootpath / CONFIG)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def check(cfg, folder):
    use_coco_folder(cfg, folder)
    return check_data(cfg, ("train", "val", "test"))


def test_missing_proposals_are_requested(cfg, own_folder):
    """As in mmdet's Fast R-CNN, the pipelines load the proposals that the data sets name."""
    use_coco_folder(cfg, own_folder)
    for loader in ("train", "val", "test"):
        cfg[f"{loader}_dataloader"].dataset.pipeline.insert(1, dict(type="LoadProposals", num_max_proposals=10))
    with pytest.raises(ValueError, match=r"none for .*train\.json: .* \+train_dataloader\.dataset\.proposal_file=FILE"):
        check_data(cfg, ("train", "val"))
    cfg.train_dataloader.dataset.proposal_file = cfg.val_dataloader.dataset.proposal_file = "proposals.pkl"
    check_data(cfg, ("train", "val"))


def test_own_folder_sets_data_classes_and_heads(cfg, own_folder):
    assert use_coco_folder(cfg, own_folder) == NAMES
    for loader, split in (("train", "train"), ("val", "val"), ("test", "val")):
        dataset = cfg[f"{loader}_dataloader"].dataset
        assert dataset.data_root == str(own_folder)
        assert dataset.ann_file == f"instances_{split}.json"
        assert dataset.data_prefix.img == f"{split}/"
        assert dataset.metainfo.classes == tuple(NAMES)
    assert cfg.test_evaluator.ann_file == str(own_folder / "instances_val.json")
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 2


def test_all_three_cascade_heads_are_sized(request, own_folder):
    cfg = Config.fromfile(request.config.rootpath / "configs/detection/cascade_convnext_t_3x.py")
    use_coco_folder(cfg, own_folder)
    assert [head.num_classes for head in cfg.model.roi_head.bbox_head] == [2, 2, 2]


def test_coco_layout_is_recognised(cfg, shapes_folder):
    assert len(use_coco_folder(cfg, shapes_folder)) == 6
    assert cfg.train_dataloader.dataset.data_prefix.img == "train2017/"
    assert check_data(cfg, ("train", "val"))[0].endswith("6 classes.")


def test_wrapped_data_sets_are_reached(cfg, own_folder):
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=3, dataset=cfg.train_dataloader.dataset)
    use_coco_folder(cfg, own_folder)
    assert cfg.train_dataloader.dataset.dataset.ann_file == "instances_train.json"


def test_file_names_may_be_relative_to_the_whole_folder(cfg, own_folder):
    for split in ("train", "val"):

        def prepend(content, split=split):
            for image in content["images"]:
                image["file_name"] = f"{split}/{image['file_name']}"

        edit(own_folder / f"instances_{split}.json", prepend)
    assert len(check(cfg, own_folder)) == 2
    assert cfg.train_dataloader.dataset.data_prefix.img == ""


def test_ids_with_gaps_and_from_zero_are_mapped(cfg, own_folder):
    """mmdet's own data set, built from the changed config, gives label 0 to id 0 and label 1 to id 5."""
    from mmdet.registry import DATASETS

    check(cfg, own_folder)
    data = DATASETS.build(cfg.val_dataloader.dataset)
    assert data.cat2label == {0: 0, 5: 1}
    content = json.loads((own_folder / "instances_val.json").read_text())
    labels = [item["bbox_label"] for index in range(len(data)) for item in data.get_data_info(index)["instances"]]
    expected = [annotation["category_id"] // 5 for annotation in content["annotations"]]
    assert sorted(labels) == sorted(expected)
    assert len(set(labels)) == 2


def truncate(path):
    path.write_text(path.read_text()[:-40])


def rename_in_val(folder):
    edit(folder / "instances_val.json", lambda content: content["categories"][1].update(name="uneven"))


def spoil_image(folder):
    image = sorted((folder / "train").iterdir())[3]
    image.write_bytes(b"not an image")


BROKEN = {
    "no annotations": (
        lambda folder: (folder / "instances_val.json").unlink(),
        r"has no annotations of the val split; it has 'train'\. Expected:",
    ),
    "empty file": (
        lambda folder: (folder / "instances_train.json").write_text(""),
        r"instances_train\.json is empty \(0 bytes\)",
    ),
    "truncated file": (
        lambda folder: truncate(folder / "instances_train.json"),
        r"instances_train\.json is truncated: what begins at .* Copy it again",
    ),
    "not COCO": (
        lambda folder: (folder / "instances_train.json").write_text("[]"),
        r"has no list 'images': it is not in COCO's instances format",
    ),
    "no images": (
        lambda folder: edit(folder / "instances_train.json", lambda content: content.update(images=[])),
        r"has an empty list 'images'",
    ),
    "nothing to learn": (
        lambda folder: edit(folder / "instances_train.json", lambda content: content.update(annotations=[])),
        r"instances_train\.json has no annotations: there is nothing to learn from",
    ),
    "other names in val": (rename_in_val, r"has the classes \['even', 'odd'\], but .*\['even', 'uneven'\]"),
    "same name twice": (
        lambda folder: [
            edit(folder / f"instances_{split}.json", lambda content: content["categories"][1].update(name="even"))
            for split in ("train", "val")
        ],
        r"names a class twice: 'even', 'even'",
    ),
    "missing images": (
        lambda folder: [path.unlink() for path in sorted((folder / "train").iterdir())[:2]],
        r"2 of 8 images of .*instances_train\.json are not in .*, such as '0+1\.jpg', '0+2\.jpg'",
    ),
    "unreadable image": (spoil_image, r"Image .*0+4\.jpg cannot be decoded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folder_is_reported(cfg, own_folder, case):
    damage, text = BROKEN[case]
    damage(own_folder)
    with pytest.raises(ValueError, match=text):
        check(cfg, own_folder)


def test_folder_that_does_not_exist_shows_the_layout(cfg, tmp_path):
    with pytest.raises(ValueError, match=r"--data .*nowhere is not a folder\. Expected:\s+DIR/train"):
        use_coco_folder(cfg, tmp_path / "nowhere")


def test_missing_coco_shows_layout_and_option(request, monkeypatch, tmp_path):
    cfg = Config.fromfile(request.config.rootpath / "configs/detection/cascade_convnext_t_3x.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"There is no data at data/coco/[\s\S]*--data DIR[\s\S]*train2017"):
        check_data(cfg, ("train",))


def test_names_that_differ_from_the_configs_are_reported(cfg, own_folder):
    use_coco_folder(cfg, own_folder)
    cfg.train_dataloader.dataset.metainfo.classes = ("even", "prime")
    with pytest.raises(ValueError, match=r"classes that .*instances_train\.json does not have: 'prime'.*'even', 'odd'"):
        check_data(cfg, ("train",))


def test_default_coco_names_are_checked_against_the_file(cfg, own_folder):
    use_coco_folder(cfg, own_folder)
    del cfg.train_dataloader.dataset["metainfo"]
    with pytest.raises(ValueError, match=r"does not have: 'person', 'bicycle'"):
        check_data(cfg, ("train",))


def test_some_of_the_files_classes_may_be_left_out(cfg, own_folder):
    use_coco_folder(cfg, own_folder)
    cfg.train_dataloader.dataset.metainfo.classes = ("odd",)
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.roi_head.mask_head.num_classes = 1
    assert check_data(cfg, ("train",))[0].endswith("1 of its 2 classes.")


def test_head_of_another_size_is_reported(cfg, own_folder):
    use_coco_folder(cfg, own_folder)
    cfg.model.roi_head.mask_head.num_classes = 80
    with pytest.raises(ValueError, match=r"FCNMaskHead has num_classes=80, but there are 2 classes \('even', 'odd'\)"):
        check_data(cfg, ("train",))


def test_classes_without_training_objects_are_reported_once(cfg, own_folder):
    def keep_even(content):
        content["annotations"] = [item for item in content["annotations"] if item["category_id"] == 0]

    edit(own_folder / "instances_train.json", keep_even)
    lines = check(cfg, own_folder)
    (absent,) = (line for line in lines if "to learn from" in line)
    assert "instances_train.json has no object of 'odd' to learn from" in absent
    (unlearnt,) = (line for line in lines if "cannot be found" in line)
    assert "instances_val.json has objects of 'odd', and the training data has none" in unlearnt


@pytest.mark.parametrize("kind", [str, float, lambda number: f"id{number}"])
def test_ids_may_be_text_or_end_in_a_point_and_a_zero(cfg, own_folder, kind):
    """pandas writes 1.0 for 1; pycocotools and mmdet look ids up as they are."""

    def rename(content):
        for image in content["images"]:
            image["id"] = kind(image["id"])
        for category in content["categories"]:
            category["id"] = kind(category["id"])
        for item in content["annotations"]:
            item.update(id=kind(item["id"]), image_id=kind(item["image_id"]), category_id=kind(item["category_id"]))

    for split in ("train", "val"):
        edit(own_folder / f"instances_{split}.json", rename)
    is_right, report = report_data(cfg, use_whole_folder(cfg, own_folder), overlay=own_folder / "sheet.png")
    assert is_right, report
    assert "has box AP 1.0000, mask AP 1.0000" in report
    assert "Overlay of " in report


@pytest.mark.parametrize("number", [None, True, "", [1], float("nan"), 1e300])
def test_other_ids_are_reported(cfg, own_folder, number):
    edit(own_folder / "instances_train.json", lambda content: content["images"][1].update(id=number))
    with pytest.raises(ValueError, match=r"entry 1 of 'images' has id=.*; it must be a number or text"):
        use_coco_folder(cfg, own_folder)


def test_annotations_are_parsed_once_before_a_run_and_again_for_the_next(cfg, own_folder, monkeypatch):
    parsed = []
    parse = detection.read_json
    monkeypatch.setattr(detection, "read_json", lambda path, kind: parsed.append(path.name) or parse(path, kind))
    both = ["instances_train.json", "instances_val.json"]
    use_coco_folder(cfg, own_folder)
    check_data(cfg, ("train", "val"))
    assert parsed == both
    use_coco_folder(cfg, own_folder)
    assert parsed == both * 2
    edit(own_folder / both[1], lambda content: content["annotations"].pop())
    use_coco_folder(cfg, own_folder)
    assert parsed == [*both * 2, both[1]]
    detection.forget_annotations()
