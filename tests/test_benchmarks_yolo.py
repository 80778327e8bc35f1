"""The comparison with YOLO: what is converted, scored and timed; Ultralytics itself is not needed."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_api

from benchmarks import yolo
from convnext_dense.errors import UserError

IMAGE = {"id": 5, "file_name": "a.jpg", "height": 10, "width": 20}
SQUARE = [2, 1, 12, 1, 12, 6, 2, 6]


def annotation(number, polygon, *, category=7, image=5, **more):
    x, y = polygon[::2], polygon[1::2]
    box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    area = mask_api.area(mask_api.frPyObjects([polygon], 40, 40))[0]
    return dict(
        id=number, image_id=image, category_id=category, bbox=box, area=float(area), iscrowd=0, segmentation=[polygon]
    ) | dict(more)


def content(*annotations):
    categories = [dict(id=3, name="bolt"), dict(id=7, name="nut")]
    return dict(images=[dict(IMAGE, height=40, width=40)], categories=categories, annotations=list(annotations))


def detection(item, shift=0, **more):
    x, y, width, height = item["bbox"]
    polygon = (np.reshape(item["segmentation"], (-1, 2)) + np.array([shift, 0])).flatten().tolist()
    (encoded,) = mask_api.frPyObjects([polygon], 40, 40)
    return dict(
        image_id=item["image_id"], category_id=item["category_id"], score=0.9, bbox=[x + shift, y, width, height],
        segmentation=dict(size=[40, 40], counts=encoded["counts"].decode()),
    ) | dict(more)  # fmt: skip


def test_polygon_becomes_a_line_of_fractions():
    assert yolo.label_line(annotation(1, SQUARE), IMAGE, [3, 7]) == "1 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6"


def test_polygon_is_cut_at_the_image():
    line = yolo.label_line(annotation(1, [-1, 0, 21, 0, 21, 10, -1, 10], category=3), IMAGE, [3, 7])
    assert line == "0 0 0 1 0 1 1 0 1"


@pytest.mark.parametrize("is_compressed", [True, False])
def test_run_lengths_are_traced_along_the_outer_edges_and_holes_are_filled(is_compressed):
    mask = np.zeros((10, 20), np.uint8)
    mask[1:6, 2:12] = 1
    mask[3, 5] = 0
    encoded = mask_api.encode(np.asfortranarray(mask))
    if not is_compressed:
        # 2 columns of 10 zeros and one more; then 5 ones and 5 zeros per column, the fourth with a zero in the middle
        runs = [21, 5, 5, 5, 5, 5, 5, 2, 1, 2] + [5, 5] * 6
        encoded = dict(size=[10, 20], counts=[*runs, 10 * 20 - sum(runs)])
    (part,) = yolo.outline(encoded, 10, 20)
    assert sorted(map(tuple, part)) == [(2, 1), (2, 6), (12, 1), (12, 6)]


def test_parts_are_joined_where_they_are_closest():
    left, right = [[0, 0], [2, 0], [2, 2], [0, 2]], [[9, 2], [9, 0], [5, 0], [5, 2]]
    whole = yolo.join([np.array(left, float), np.array(right, float)])
    there_and_back = [[0, 0], [2, 0], [5, 0], [5, 2], [9, 2], [9, 0], [5, 0], [2, 0], [2, 2], [0, 2]]
    assert whole.tolist() == there_and_back


def test_three_parts_keep_their_area():
    parts = [np.array([[x, 0], [x + 2, 0], [x + 2, 3], [x, 3]], float) for x in (10, 0, 20)]
    x, y = yolo.join(parts).T
    assert (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == 3 * 6


def test_object_without_a_mask_is_an_error():
    with pytest.raises(UserError, match="Annotation 4 has no mask"):
        yolo.label_line(annotation(4, SQUARE, segmentation=[]), IMAGE, [3, 7])


def test_folder_is_copied_with_one_line_per_object_and_no_crowd(tmp_path):
    crowd = annotation(2, SQUARE, iscrowd=1)
    other = dict(IMAGE, id="b", file_name="b.png")
    for split in yolo.SPLITS:
        (tmp_path / split).mkdir()
        for name in ("a.jpg", "b.png"):
            Image.new("RGB", (20, 10)).save(tmp_path / split / name)
        data = content(annotation(1, SQUARE), crowd) | dict(images=[IMAGE, other])
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(data))
    description = json.loads(yolo.convert(tmp_path, tmp_path / "out").read_text())
    assert description["names"] == ["bolt", "nut"]
    for split in yolo.SPLITS:
        images = tmp_path / "out" / description[split]
        assert sorted(path.name for path in images.iterdir()) == ["0000000.jpg", "0000001.png"]
        assert not any(path.is_symlink() for path in images.iterdir())
        labels = tmp_path / "out" / "labels" / split
        assert (labels / "0000000.txt").read_text() == "1 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n"
        assert (labels / "0000001.txt").read_text() == ""


def test_classes_in_another_order_are_an_error(tmp_path):
    for split in yolo.SPLITS:
        (tmp_path / split).mkdir()
        Image.new("RGB", (20, 10)).save(tmp_path / split / "a.jpg")
        data = content(annotation(1, SQUARE)) | dict(images=[IMAGE])
        data["categories"].sort(key=lambda category: category["id"], reverse=split == "val")
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="different classes, or in another order"):
        yolo.convert(tmp_path, tmp_path / "out")


def test_perfect_predictions_have_an_ap_of_one():
    items = [annotation(1, SQUARE), annotation(2, [20, 20, 30, 20, 25, 35], category=3)]
    found = [detection(item) for item in items]
    assert yolo.score(content(*items), found, found) == dict.fromkeys(yolo.METRICS, 1.0)


def test_ap_is_the_share_of_thresholds_below_the_iou():
    square = annotation(1, [0, 0, 10, 0, 10, 10, 0, 10])
    boxes, segments = [detection(square, shift=2)], [detection(square, shift=1)]
    values = yolo.score(content(square), boxes, segments)
    # boxes: 8 / 12 = 0.67, above 0.5 to 0.65; masks: 9 / 11 = 0.82, above 0.5 to 0.8
    expected = {"box AP": 0.4, "box AP50": 1, "box AP75": 0, "mask AP": 0.7, "mask AP50": 1, "mask AP75": 1}
    assert values == pytest.approx(expected)


def test_detection_of_another_class_counts_for_nothing():
    square = annotation(1, SQUARE)
    found = [detection(square, category_id=3)]
    assert yolo.score(content(square), found, found) == dict.fromkeys(yolo.METRICS, 0.0)


def test_hundred_detections_per_image_count():
    square = annotation(1, SQUARE)
    better = [detection(square, shift=20, score=0.95)] * 100
    found = [*better, detection(square)]
    assert yolo.score(content(square), found, found)["box AP50"] == 0
    assert yolo.score(content(square), found[1:], found[1:])["box AP50"] == pytest.approx(0.01)


def test_detections_have_the_files_ids_and_masks_as_run_lengths():
    mask = torch.zeros(1, 10, 20)
    mask[0, 1:6, 2:12] = 1
    boxes = SimpleNamespace(xyxy=torch.tensor([[2.0, 1, 12, 6]]), conf=torch.tensor([0.5]), cls=torch.tensor([1.0]))
    result = SimpleNamespace(boxes=boxes, masks=SimpleNamespace(data=mask))
    (found,) = yolo.as_coco(result, "b", [3, 7])
    assert (found["image_id"], found["category_id"], found["score"]) == ("b", 7, 0.5)
    assert found["bbox"] == [2, 1, 10, 5]
    assert (mask_api.decode(json.loads(json.dumps(found["segmentation"]))) == mask[0].numpy()).all()
    assert list(yolo.as_coco(SimpleNamespace(boxes=None, masks=None), "b", [3, 7])) == []


def test_epochs_are_those_that_fit_into_the_seconds_that_are_left(monkeypatch):
    times = iter([100.0, 110.0, 120.0, 150.0, 196.0])
    monkeypatch.setattr("benchmarks.yolo.time.process_time", lambda: next(times))
    trainer = SimpleNamespace(epochs=50, args=SimpleNamespace(epochs=50))
    clock, epochs = yolo.ProcessorClock(100), []
    for _ in range(4):
        clock.end_epoch(trainer)
        epochs.append(trainer.epochs)
    # 10 s each: 9 more; the same: 8 more; 50 s for three: 3 more; 96 s for four: none, and the fourth is the last
    assert epochs == [10, 10, 6, 4]
    assert trainer.args.epochs == 4
    assert clock.ends == [10, 20, 50, 96]


def test_probe_keeps_its_number_of_epochs():
    trainer = SimpleNamespace(epochs=2)
    clock = yolo.ProcessorClock(None)
    clock.end_epoch(trainer)
    assert trainer.epochs == 2


def test_config_is_trained_tested_and_scored_like_yolo(tmp_path, monkeypatch):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "val" / "a.jpg")
    square = annotation(1, [0, 0, 10, 0, 10, 10, 0, 10])
    (tmp_path / "instances_val.json").write_text(json.dumps(content(square)))
    work_dir, called = tmp_path / "run", []

    def run(*arguments):
        called.append(arguments)
        work_dir.mkdir(exist_ok=True)
        (work_dir / "last_checkpoint").write_text("epoch_6.pth\n")
        (work_dir / "detections.bbox.json").write_text(json.dumps([detection(square, shift=2)]))
        (work_dir / "detections.segm.json").write_text(json.dumps([detection(square)]))

    seconds = iter([1.0, 6.0])
    monkeypatch.setattr(yolo, "command", run)
    monkeypatch.setattr(yolo, "seconds_of_children", lambda: next(seconds))
    values = yolo.run_config("c.py", tmp_path, work_dir, seed=3)
    assert (values["seconds"], values["box AP75"], values["mask AP"]) == (5, 0, 1)
    (train, *options), (test, config, checkpoint, *_) = called
    assert (train, test, config, checkpoint) == ("tools/train.py", "tools/test.py", "c.py", "epoch_6.pth")
    assert "randomness.seed=3" in options


def test_summary_has_mean_and_deviation_over_seeds():
    runs = {f"my shapes a {seed}": dict.fromkeys(yolo.METRICS, value) for seed, value in ((0, 0.25), (1, 0.75))}
    summary = yolo.summarise(runs | {"my shapes b 0": dict.fromkeys(yolo.METRICS, 0.5)})
    assert summary["my shapes a box AP"] == {"mean": 0.5, "deviation": pytest.approx(0.125**0.5), "seeds": 2}
    assert summary["my shapes b mask AP75"] == {"mean": 0.5, "deviation": None, "seeds": 1}


def test_missing_ultralytics_is_said_with_its_extra_and_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UserError, match=r"AGPL-3.0: pip install -e '\.\[benchmark-yolo\]'"):
        yolo.import_ultralytics()
