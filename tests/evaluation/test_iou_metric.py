"""IoU and accuracy by hand, against mmseg's metric, and the files that are written."""

import csv
import math

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

import convnext_dense  # noqa: F401  (serves mmcv._ext, which mmseg imports)
from convnext_dense.evaluation import IoUMetric

CLASSES = ("road", "sky", "tree", "never")


def evaluate(pairs, classes=CLASSES, **kwargs):
    metric = IoUMetric(**kwargs)
    metric.dataset_meta = dict(classes=classes)
    samples = [
        dict(
            pred_sem_seg=dict(data=torch.tensor(predicted)[None]),
            gt_sem_seg=dict(data=torch.tensor(truth)[None]),
            img_path=f"images/{index}.jpg",
            reduce_zero_label=True,
        )
        for index, (predicted, truth) in enumerate(pairs)
    ]
    for sample in samples:
        metric.process(None, [sample])
    return metric.evaluate(len(samples))


@pytest.fixture
def logger(tmp_path):
    logger = MMLogger.get_instance("iou", logger_name="iou", log_file=str(tmp_path / "run.log"))
    yield tmp_path
    for handler in logger.handlers:
        handler.close()
    MMLogger._instance_dict.pop("iou")


def test_areas_are_summed_over_images_before_they_are_divided():
    """road 3 of 5, sky 2 of 4, tree 1 of 1 pixels; the class that never occurs counts for nothing."""
    metrics = evaluate(
        [
            ([[0, 0, 1], [1, 1, 2]], [[0, 0, 1], [0, 1, 2]]),  # one road called sky
            ([[0, 1]], [[0, 255]]),  # ignored
            ([[0]], [[1]]),  # one sky called road
        ]
    )
    # road: right 3, predicted 4, true 4, union 5; sky: right 2, predicted 3, true 3, union 4; tree: 1 of 1
    assert metrics["mIoU"] == pytest.approx(100 * (3 / 5 + 2 / 4 + 1) / 3)
    assert metrics["mAcc"] == pytest.approx(100 * (3 / 4 + 2 / 3 + 1) / 3)
    assert metrics["aAcc"] == pytest.approx(100 * 6 / 8)


def test_a_class_that_is_predicted_but_never_true_counts_as_zero():
    metrics = evaluate([([[0, 3]], [[0, 0]])])
    assert metrics["mIoU"] == pytest.approx(100 * (1 / 2 + 0) / 2)
    assert metrics["mAcc"] == pytest.approx(50)  # accuracy is over true classes only


def test_nothing_but_ignored_pixels_is_not_a_number_and_no_crash():
    assert math.isnan(evaluate([([[0]], [[255]])])["mIoU"])


def test_metrics_are_mmsegs_before_rounding(logger):
    from mmseg.evaluation import IoUMetric as MMSegIoUMetric

    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(4):
        truth = rng.choice([0, 1, 2, 255], size=(20, 30))
        predicted = np.where(rng.random((20, 30)) < 0.7, np.where(truth == 255, 0, truth), rng.integers(0, 3, (20, 30)))
        pairs.append((predicted, truth))
    theirs = MMSegIoUMetric()
    theirs.dataset_meta = dict(classes=CLASSES)
    for predicted, truth in pairs:
        sample = dict(
            pred_sem_seg=dict(data=torch.tensor(predicted)[None]), gt_sem_seg=dict(data=torch.tensor(truth)[None])
        )
        theirs.process(None, [sample])
    expected = theirs.evaluate(4)
    for name, value in evaluate(pairs).items():
        assert value == pytest.approx(float(expected[name]), abs=0.005 + 1e-9), name  # mmseg rounds to two digits


def test_table_of_classes_is_written_beside_the_log(logger):
    evaluate([([[0, 0, 1]], [[0, 1, 1]])])
    with (logger / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(CLASSES)
    assert [float(row["IoU"]) for row in rows[:2]] == pytest.approx([50, 50])
    assert [float(row["Acc"]) for row in rows[:2]] == pytest.approx([100, 50])
    assert [row["pixels"] for row in rows] == ["1", "2", "0", "0"]
    assert rows[3]["IoU"] == "nan"
    log = (logger / "run.log").read_text()
    assert "per_class.csv" in log
    assert "road" in log


def test_predictions_are_written_in_the_numbers_of_the_label_files(tmp_path):
    evaluate([([[0, 2]], [[0, 2]])], output_dir=str(tmp_path / "out"))
    written = cv2.imread(str(tmp_path / "out" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert written.tolist() == [[1, 3]]  # from 1 on, because reduce_zero_label was set


def test_two_images_of_one_name_are_refused(tmp_path):
    metric = IoUMetric(output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=CLASSES)
    one = torch.zeros(1, 1, 1, dtype=torch.long)
    samples = [
        dict(pred_sem_seg=dict(data=one), gt_sem_seg=dict(data=one), img_path=f"{folder}/0.jpg") for folder in "ab"
    ]
    metric.process(None, samples[:1])
    with pytest.raises(ValueError, match=r"a/0\.jpg and b/0\.jpg have one name"):
        metric.process(None, samples[1:])
