"""The check of a whole data set: report, round trip, overlay, exit code; and boxes without masks."""

import json
import os
import shutil

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from convnext_dense.data.checks.coco_masks import mask_fault
from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.data_report import report_data
from convnext_dense.data.own.tasks import check_data, inspect_data, use_folder, use_whole_folder
from convnext_dense.engine import evaluate_model, train_model

DETECTOR = "configs/demo/mask_rcnn_convnext_atto_shapes.py"
SEGMENTER = "configs/demo/upernet_convnext_atto_shapes.py"
CLASSIFIER = "configs/demo/convnext_atto_small_images.py"


@pytest.fixture
def detector(request):
    return Config.fromfile(request.config.rootpath / DETECTOR)


@pytest.fixture
def segmenter(request):
    return Config.fromfile(request.config.rootpath / SEGMENTER)


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """Eight images of two classes in train, four in val."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_tool_reports_box_and_mask_ap_of_one_and_exits_with_0(request, run_tool, own_folder, tmp_path):
    sheet = tmp_path / "pictures" / "sheet.png"
    code, out, _ = run_tool(
        "check_dataset.py", request.config.rootpath / DETECTOR, "--data", own_folder, "--overlay", sheet
    )
    assert code == 0
    assert "the ground truth of val, evaluated as if it were predicted, has box AP 1.0000, mask AP 1.0000" in out
    assert "numbers its categories 0, 5: gaps and a start at 0 are allowed" in out
    assert out.rstrip().endswith("0 errors, 0 warnings.")
    width, height = Image.open(sheet).size
    assert width > 3 * 300
    assert height > 3 * 300


def test_tool_exits_with_1_and_counts_the_errors(request, run_tool, own_folder, tmp_path):
    def damage(content):
        for annotation in content["annotations"][:3]:
            annotation["bbox"] = [1, 2, 3]

    edit(own_folder / "instances_val.json", damage)
    arguments = ("--data", own_folder, "--overlay", tmp_path / "sheet.png")
    code, out, _ = run_tool("check_dataset.py", request.config.rootpath / DETECTOR, *arguments)
    assert code == 1
    row = next(line for line in out.splitlines() if line.startswith("error"))
    assert row.split()[:3] == ["error", "boxes", "3"]
    assert "instances_val.json has the box [1, 2, 3]" in row
    assert "Round trip: not run" in out


def test_segmentation_round_trip_is_one_with_labels_from_0_and_from_1(segmenter, ade_folder, tmp_path):
    assert "has mIoU 1.0000" in report_data(segmenter, use_whole_folder(segmenter, ade_folder))[1]
    root = tmp_path / "own"
    for ours, theirs in (("train", "training"), ("val", "validation")):
        shutil.copytree(ade_folder / "images" / theirs, root / ours)
        (root / "semantic" / ours).mkdir(parents=True)
        for path in (ade_folder / "annotations" / theirs).iterdir():
            palette = Image.fromarray(np.asarray(Image.open(path)) - np.uint8(1), mode="P")  # 255: ignored
            palette.putpalette(list(range(256)) * 3)
            palette.save(root / "semantic" / ours / path.name)
    (root / "classes.txt").write_text((ade_folder / "classes.txt").read_text())
    is_right, report = report_data(segmenter, use_whole_folder(segmenter, root))
    assert is_right
    assert "has mIoU 1.0000" in report
    assert "has a palette; the numbers in the file are the classes" in report


def test_segmentation_round_trip_detects_labels_that_are_read_differently(segmenter, ade_folder, tmp_path):
    """A custom step swaps two of seven classes."""
    from mmseg.datasets.transforms import LoadAnnotations
    from mmseg.registry import TRANSFORMS

    @TRANSFORMS.register_module(force=True)
    class SwappingLoadAnnotations(LoadAnnotations):
        def transform(self, results):
            labels = super().transform(results)["gt_seg_map"]
            results["gt_seg_map"] = np.where(labels == 1, 2, np.where(labels == 2, 1, labels))
            return results

    use_folder(segmenter, ade_folder)
    segmenter.val_dataloader.dataset.pipeline[2].type = "SwappingLoadAnnotations"
    segmenter.test_dataloader = segmenter.test_evaluator = segmenter.test_cfg = None
    is_right, report = report_data(segmenter)
    assert not is_right
    assert "has mIoU 0.7143: the files and the evaluation disagree" in report  # five of seven classes

    segmenter.val_dataloader.dataset.pipeline[2] = dict(type="LoadAnnotations", imdecode_backend="cv2")
    for path in (ade_folder / "annotations/validation").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        palette = Image.fromarray(np.asarray(Image.open(path)), mode="P")
        palette.putpalette(list(range(256)) * 3)
        palette.save(tmp_path / path.name)
    segmenter.val_dataloader.dataset.data_prefix.seg_map_path = str(tmp_path)
    assert "set imdecode_backend='pillow'" in report_data(segmenter)[1]


def test_classification_round_trip_is_one(request, class_folders):
    cfg = Config.fromfile(request.config.rootpath / CLASSIFIER)
    cfg.train_dataloader.batch_size = 4
    is_right, report = report_data(cfg, use_whole_folder(cfg, class_folders))
    assert is_right
    assert "has top-1 1.0000" in report


def test_same_image_in_train_and_val_is_found_by_its_content(request, class_folders, tmp_path):
    root = shutil.copytree(class_folders, tmp_path / "own")
    shutil.copy(root / "train/cat/1.png", root / "val/cat/9.png")
    cfg = Config.fromfile(request.config.rootpath / CLASSIFIER)
    cfg.train_dataloader.batch_size = 4
    is_right, report = report_data(cfg, use_whole_folder(cfg, root))
    assert not is_right
    assert "val/cat/9.png of val is the same as" in report


def first(content):
    return content["annotations"][0]


WARNINGS = {
    "boxes without area": lambda content: first(content).update(area=0),
    "boxes that leave the image": lambda content: first(content).update(bbox=[0, 0, 500, 20]),
    "masks": lambda content: first(content).update(segmentation=[[1, 1, 120, 1, 120, 50]]),
    "file names": lambda content: content["images"].append({**content["images"][0], "id": 999}),
    "small images": lambda content: content["images"].append(dict(content["images"][0], id=999, height=9)),
    "ignored objects": lambda content: first(content).update(ignore=1),
}


@pytest.mark.parametrize("check", WARNINGS)
def test_oddities_are_warnings_with_the_file(detector, own_folder, check):
    init_default_scope("mmdet")
    edit(own_folder / "instances_train.json", WARNINGS[check])
    use_folder(detector, own_folder)
    inspection = Inspection()
    inspect_data(detector, ("train",), inspection)
    found = {finding.check: finding for finding in inspection.of("warning")}
    assert found[check].times == 1
    assert "instances_train.json" in found[check].example


def test_object_that_is_not_read_explains_a_round_trip_below_one(detector, own_folder):
    edit(own_folder / "instances_val.json", lambda content: first(content).update(area=0))
    is_right, report = report_data(detector, use_whole_folder(detector, own_folder))
    assert is_right
    assert "it is not 1 because of: boxes without area" in report


@pytest.mark.parametrize(
    ("mode", "severity", "check"),
    [("I;16", "warning", "16-bit images"), ("RGBA", "warning", "images with alpha"), ("P", "note", "palette images")],
)
def test_losses_of_reading_in_colour_are_reported(detector, own_folder, mode, severity, check):
    init_default_scope("mmdet")
    path = own_folder / "train/000000000002.jpg"
    image = Image.open(path)
    pixels = np.zeros(image.size[::-1], np.uint16) if mode == "I;16" else None
    image = Image.fromarray(pixels) if pixels is not None else image.convert(mode)
    image.save(path, format="png")
    use_folder(detector, own_folder)
    inspection = Inspection()
    inspect_data(detector, ("train",), inspection)
    assert [finding.check for finding in inspection.of(severity)].count(check) == 1


def test_sample_is_evenly_spread_and_all_means_all():
    assert Inspection(4).pick(range(100)) == [0, 25, 50, 75]
    assert Inspection(4).pick(range(3)) == [0, 1, 2]
    assert Inspection(None).pick(range(100)) == list(range(100))


def test_run_lengths_of_pycocotools_are_understood():
    """Random masks, encoded by pycocotools: the right size passes, truncated text and another size do not."""
    from pycocotools import mask as masks

    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(1, 60, 2).tolist()
        pixels = np.asfortranarray((rng.random((height, width)) < rng.random()).astype(np.uint8))
        text = masks.encode(pixels)["counts"].decode()
        assert mask_fault(dict(size=[height, width], counts=text), height, width) is None
        assert mask_fault(dict(size=[height, width], counts=text[:-1]), height, width) is not None
        assert "of size" in mask_fault(dict(size=[height, width + 1], counts=text), height, width)


def drop_masks_of(folder):
    for split in ("train", "val"):

        def drop(content):
            for annotation in content["annotations"]:
                annotation.pop("segmentation")

        edit(folder / f"instances_{split}.json", drop)


def test_boxes_without_masks_turn_off_the_masks_of_a_cascade(request, own_folder):
    init_default_scope("mmdet")
    cfg = Config.fromfile(request.config.rootpath / "configs/detection/cascade_convnext_t_3x.py")
    drop_masks_of(own_folder)
    use_folder(cfg, own_folder)
    lines = check_data(cfg, ("train", "val"))
    assert any("instances_train.json has a mask: the mask head is off" in line for line in lines)
    assert not {"mask_head", "mask_roi_extractor"} & set(cfg.model.roi_head)
    assert len(cfg.model.roi_head.bbox_head) == 3
    steps = [step for loader in ("train", "val", "test") for step in cfg[f"{loader}_dataloader"].dataset.pipeline]
    assert not any(step.get("with_mask") for step in steps)
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == ["bbox"]


def test_boxes_alone_train_and_test_a_mask_rcnn(request, own_folder, tmp_path):
    drop_masks_of(own_folder)
    options = {"train_cfg.max_epochs": 1, "train_dataloader.batch_size": 4}
    for loader in ("train", "val", "test"):
        options |= {f"{loader}_dataloader.num_workers": 0, f"{loader}_dataloader.persistent_workers": False}
    config, work_dir = request.config.rootpath / DETECTOR, tmp_path / "run"
    train_model(config, options, data=str(own_folder), work_dir=str(work_dir))
    log = next(work_dir.rglob("*.log")).read_text()
    assert "the mask head is off, and boxes alone are trained and evaluated" in log
    assert "loss_bbox" in log
    assert "loss_mask" not in log
    checkpoint = (work_dir / "last_checkpoint").read_text()
    metrics = evaluate_model(config, checkpoint, options, data=str(own_folder), work_dir=str(tmp_path / "test"))
    assert {key.split("_")[0] for key in metrics} == {"coco/bbox"}
    os.remove(checkpoint)
