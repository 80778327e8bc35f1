"""The ground truth of images with more objects than COCO's AP counts evaluates to 1, and their number is reported."""

import json

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from convnext_dense.data.checks.inspection import Inspection
from convnext_dense.data.checks.round_trip import inspect_round_trip


@pytest.fixture
def cfg(pytestconfig, tmp_path):
    cfg = Config.fromfile(pytestconfig.rootpath / "configs/demo/mask_rcnn_convnext_atto_shapes.py")
    annotations = []
    for number in range(150):
        x, y = 20 * (number % 15), 20 * (number // 15)
        corners = [x, y, x + 10, y, x + 10, y + 10, x, y + 10]
        annotations.append(
            dict(
                id=number + 1,
                image_id=1,
                category_id=1,
                bbox=[x, y, 10, 10],
                area=100,
                iscrowd=0,
                segmentation=[corners],
            )
        )
    content = dict(
        images=[dict(id=1, width=300, height=200, file_name="a.png")],
        categories=[dict(id=1, name="nucleus")],
        annotations=annotations,
    )
    (tmp_path / "val.json").write_text(json.dumps(content))
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    cfg.val_dataloader.dataset.update(
        data_root=str(tmp_path), ann_file="val.json", data_prefix=dict(img=""), metainfo=dict(classes=("nucleus",))
    )
    cfg.val_evaluator.ann_file = str(tmp_path / "val.json")
    init_default_scope("mmdet")
    return cfg


def test_crowded_images_evaluate_to_one_and_are_noted(cfg):
    cfg.val_evaluator.update(metric_items=["mAP_s"], proposal_nums=(1, 10, 100))  # irrelevant to the round trip
    inspection = Inspection()
    inspect_round_trip(cfg, ("val",), inspection, "detection")
    assert "has box AP 1.0000, mask AP 1.0000." in inspection.lines[0]
    (note,) = inspection.of("note")
    assert "a.png has 150 objects of one class: AP counts 100" in note.example
    assert not inspection.of("error") + inspection.of("warning")


def test_crowded_images_explain_no_other_fault(cfg, tmp_path):
    other = json.loads((tmp_path / "val.json").read_text())
    other["images"][0]["id"] = 2
    for annotation in other["annotations"]:
        annotation["image_id"] = 2
    other["images"].append(dict(id=1, width=300, height=200, file_name="a.png"))
    (tmp_path / "other.json").write_text(json.dumps(other))
    cfg.val_evaluator.ann_file = str(tmp_path / "other.json")
    inspection = Inspection()
    inspect_round_trip(cfg, ("val",), inspection, "detection")
    (error,) = inspection.of("error")
    assert "the files and the evaluation disagree" in error.example


def test_stock_metric_says_why_it_stays_below_one(cfg):
    """100 of 150 found: recall points up to 0.66, which are 67 of 101."""
    cfg.val_evaluator.type = "CocoMetric"
    inspection = Inspection()
    inspect_round_trip(cfg, ("val",), inspection, "detection")
    (warning,) = inspection.of("warning")
    assert "has box AP 0.6630, mask AP 0.6630; it is not 1 because of: crowded images" in warning.example
    assert not inspection.of("error")
