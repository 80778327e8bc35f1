"""IoU and accuracy against counting by hand and mmseg's metric, and the written files."""

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
    """road 3 of 5, sky 2 of 4, tree 1 of 1 pixels; the class that never occurs does not count."""
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


def test_only_ignored_pixels_give_nan_and_no_crash():
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


def one_pixel(img_path, label=0):
    data = torch.tensor([[[label]]])
    return dict(pred_sem_seg=dict(data=data), gt_sem_seg=dict(data=data), img_path=img_path)


@pytest.mark.parametrize("others", ["b/0.jpg", "a/0.png"])
def test_two_images_of_the_same_name_are_refused(tmp_path, others):
    metric = IoUMetric(output_dir=str(tmp_path))
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process(None, [one_pixel("a/0.jpg")])
    with pytest.raises(ValueError, match=f"a/0.jpg and {others} have the same name"):
        metric.process(None, [one_pixel(others)])


def test_two_images_of_the_same_name_are_refused_in_two_processes_too(tmp_path):
    metrics = [IoUMetric(output_dir=str(tmp_path)) for _ in range(2)]
    for metric, folder in zip(metrics, "ab", strict=True):
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process(None, [one_pixel(f"{folder}/0.jpg")])
    with pytest.raises(ValueError, match=r"a/0\.jpg and b/0\.jpg have the same name"):
        metrics[0].compute_metrics(metrics[0].results + metrics[1].results)


def test_label_images_keep_the_path_below_the_folder_of_images(tmp_path):
    metric = IoUMetric(output_dir=str(tmp_path / "out"), image_root="data/val", format_only=True)
    metric.dataset_meta = dict(classes=CLASSES)
    for number, path in enumerate(["data/val/a/0.x.jpg", "data/val/b/0.x.jpg", "data/val/1.jpg", "elsewhere/2.jpg"]):
        metric.process(None, [one_pixel(path, number)])
    assert metric.evaluate(4) == {}
    for number, name in enumerate(["a/0.x.png", "b/0.x.png", "1.png", "2.png"]):
        assert cv2.imread(str(tmp_path / "out" / name), cv2.IMREAD_UNCHANGED).tolist() == [[number]]


@pytest.mark.parametrize(
    ("num_classes", "counts_from_1", "bits"), [(256, False, 8), (256, True, 16), (257, False, 16), (300, True, 16)]
)
def test_more_than_256_values_are_written_in_16_bits(tmp_path, num_classes, counts_from_1, bits):
    labels = [0, 1, num_classes - 1]
    metric = IoUMetric(output_dir=str(tmp_path), format_only=True)
    metric.dataset_meta = dict(classes=[f"class {number}" for number in range(num_classes)])
    for number, predicted in enumerate((labels, [0, 0, 0])):  # the same kind of file, whatever an image shows
        sample = dict(
            pred_sem_seg=dict(data=torch.tensor([[predicted]])),
            img_path=f"{number}.jpg",
            reduce_zero_label=counts_from_1,
        )
        metric.process(None, [sample])
        written = cv2.imread(str(tmp_path / f"{number}.png"), cv2.IMREAD_UNCHANGED)
        assert written.dtype.itemsize * 8 == bits
        assert written.tolist() == [[label + counts_from_1 for label in predicted]]


@pytest.mark.parametrize(("label", "num_classes"), [(-1, 4), (256, 4), (65536, 70000)])
def test_label_that_does_not_fit_is_never_written_as_another(tmp_path, label, num_classes):
    metric = IoUMetric(output_dir=str(tmp_path), format_only=True)
    metric.dataset_meta = dict(classes=[f"class {number}" for number in range(num_classes)])
    with pytest.raises(ValueError, match=f"Labels from {label} to {label} cannot be written"):
        metric.process(None, [one_pixel("0.jpg", label)])
    assert not list(tmp_path.iterdir())


def test_label_image_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "out").write_text("a file where a folder is wanted")
    metric = IoUMetric(output_dir=str(tmp_path / "out"))
    metric.dataset_meta = dict(classes=CLASSES)
    with pytest.raises(ValueError, match=r"Label image .*out/0\.png could not be written"):
        metric.process(None, [one_pixel("0.jpg")])


def counted_by_numpy(pairs, num_classes):
    """IoU and accuracy per class and of all pixels, one class after the other, in whole numbers."""
    iou, accuracy = [], []
    for label in range(num_classes):
        right = sum(np.count_nonzero((p == label) & (t == label)) for p, t in pairs)
        union = sum(np.count_nonzero((p == label) | (t == label)) for p, t in pairs)
        iou.append(right / union)
        accuracy.append(right / sum(np.count_nonzero(t == label) for _, t in pairs))
    pixels = sum(np.count_nonzero(p == t) for p, t in pairs) / sum(t.size for _, t in pairs)
    return dict(mIoU=100 * np.mean(iou), mAcc=100 * np.mean(accuracy), aAcc=100 * pixels)


def test_pixels_of_large_images_are_counted_one_by_one():
    """17.8 million pixels of one class in each of two images: single precision counts to 16,777,216."""
    assert np.float32(2**24) + np.float32(1) == 2**24
    pairs = []
    for number in range(2):
        truth = np.zeros((4096, 4352), np.uint8)
        truth[0, : 100 + number] = 1
        predicted = truth.copy()
        predicted[0, : 3 + number] = 0
        predicted[-1, -1] = 1
        pairs.append((predicted, truth))
    metrics = evaluate(pairs, classes=("ground", "car"))
    assert metrics == pytest.approx(counted_by_numpy(pairs, 2), rel=1e-13)


def test_counts_of_many_large_images_add_up_to_the_last_pixel(logger):
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=("ground", "car"))
    counts = torch.tensor([[2**24 + 1, 0], [2**24 + 1, 0], [2**24 + 1, 0], [2**24 + 1, 0]])
    metric.compute_metrics([(counts, "0.jpg")] * 1001)
    with (logger / "per_class.csv").open() as file:
        assert next(csv.DictReader(file))["pixels"] == str(1001 * (2**24 + 1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_type_are_compared_as_whole_numbers(dtype):
    """Label 257 must not become 1 because the prediction has 8 bits."""
    metric = IoUMetric(ignore_index=-1)
    metric.dataset_meta = dict(classes=("a", "b"))
    sample = dict(
        pred_sem_seg=dict(data=torch.tensor([[[1, 1, 0]]], dtype=dtype)),
        gt_sem_seg=dict(data=torch.tensor([[[257, 1, 0]]])),
        img_path="0.jpg",
    )
    metric.process(None, [sample])
    assert metric.evaluate(1)["mIoU"] == pytest.approx(100 * (1 / 1 + 1 / 2) / 2)  # the pixel of 257 is not right


def test_labels_that_are_no_class_are_predicted_wrongly():
    """As in mmseg; the right pixels are one of class a and one of class b."""
    metrics = evaluate([([[0, 0, 1, 1]], [[0, -1, 1, 10**12]])], classes=("a", "b"))
    assert metrics["mIoU"] == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
    assert metrics["mAcc"] == pytest.approx(100)


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 5, 1), (1, 1, 1), (5, 1)])
def test_images_of_one_row_or_column_are_counted(shape):
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=("a", "b"))
    data = torch.zeros(shape, dtype=torch.long)
    metric.process(None, [dict(pred_sem_seg=dict(data=data), gt_sem_seg=dict(data=data), img_path="0.jpg")])
    assert metric.evaluate(1)["aAcc"] == 100


def random_pairs():
    rng = np.random.default_rng(2)
    for _ in range(3):
        truth = rng.choice([0, 1, 2, 255], size=(20, 30))
        guess = rng.integers(0, 3, (20, 30))
        yield np.where((rng.random((20, 30)) < 0.6) & (truth != 255), truth, guess), truth


@pytest.mark.parametrize(
    "arguments",
    [
        dict(iou_metrics="mDice"),
        dict(iou_metrics=["mFscore"]),
        dict(iou_metrics=["mFscore"], beta=2),
        dict(iou_metrics=["mIoU", "mDice", "mFscore"]),
        dict(nan_to_num=0),
        dict(iou_metrics=["mFscore", "mIoU"], nan_to_num=-1),
        dict(ignore_index=1),
        dict(prefix="own"),
    ],
    ids=str,
)
def test_arguments_give_what_mmseg_gives(logger, arguments):
    from mmseg.evaluation import IoUMetric as MMSegIoUMetric

    theirs = MMSegIoUMetric(**arguments)
    theirs.dataset_meta = dict(classes=CLASSES)
    for predicted, truth in random_pairs():
        sample = dict(
            pred_sem_seg=dict(data=torch.tensor(predicted)[None]), gt_sem_seg=dict(data=torch.tensor(truth)[None])
        )
        theirs.process(None, [sample])
    expected = {name: float(value) for name, value in theirs.evaluate(3).items()}
    assert evaluate(list(random_pairs()), **arguments) == pytest.approx(expected, abs=0.005 + 1e-4)


def test_dice_and_f_score_are_those_of_counts(logger):
    """road: 1 right, 2 predicted, 1 true; sky: 1 right, 1 predicted, 2 true."""
    pairs = [([[0, 0, 1]], [[0, 1, 1]])]
    metrics = evaluate(pairs, iou_metrics=["mDice", "mFscore"], beta=2)
    assert metrics["mDice"] == pytest.approx(100 * 2 / 3)
    assert metrics["mPrecision"] == pytest.approx(75)
    assert metrics["mRecall"] == pytest.approx(75)
    assert metrics["mFscore"] == pytest.approx(50 * (5 * 0.5 / (4 * 0.5 + 1) + 5 * 0.5 / (4 * 1 + 0.5)))
    with (logger / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["label", "name", "Dice", "Acc", "Fscore", "Precision", "Recall", "pixels"]
    assert [float(row["Precision"]) for row in rows[:2]] == [50, 100]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(iou_metrics=["mIou"]), r"iou_metrics=\['mIou'\] must be one of 'mIoU', 'mDice', 'mFscore'"),
        (dict(iou_metrics=[]), r"iou_metrics=\[\] must be one of"),
        (dict(format_only=True), "format_only=True needs output_dir"),
        (dict(beta="1"), "beta='1' must be a number"),
        (dict(nan_to_num="0"), "nan_to_num='0' must be a number"),
    ],
    ids=str,
)
def test_invalid_values_are_reported(arguments, message):
    with pytest.raises(ValueError, match=message):
        IoUMetric(**arguments)


def test_unknown_arguments_are_reported():
    with pytest.raises(TypeError, match="'average'"):
        IoUMetric(average="macro")  # mmseg accepts and ignores any argument


def test_prediction_and_label_of_different_sizes_are_reported():
    with pytest.raises(ValueError, match=r"The prediction of images/0\.jpg has 3x1 pixels and its label 2x1"):
        evaluate([([[0, 0, 1]], [[0, 1]])])


def test_class_that_ignore_index_leaves_out_is_reported(logger):
    evaluate([([[0, 1]], [[0, 1]])], ignore_index=1)
    assert "ignore_index=1 is the class 'sky'" in (logger / "run.log").read_text()
