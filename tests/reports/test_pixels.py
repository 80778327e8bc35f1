"""Counts of pixels: by hand, beside the metric of tools/test.py, scikit-learn, and the definition of boundary IoU."""

import types

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from sklearn.metrics import confusion_matrix

from convnext_dense.evaluation.iou_metric import IoUMetric
from convnext_dense.reports.pixels import boundary, boundary_iou, count_image, count_pixels_of, image_costs, shares
from convnext_dense.reports.segmentation import measure_pixels
from convnext_dense.reports.segmentation_page import findings

NAMES = ("sky", "sea", "land", "boat")


def evaluation(truths, ignored=255):
    fields = [PixelData(data=torch.as_tensor(truth)[None]) for truth in truths]
    samples = [dict(data_samples=types.SimpleNamespace(gt_sem_seg=field)) for field in fields]
    return types.SimpleNamespace(dataset=Samples(samples, ignored))


class Samples(list):
    def __init__(self, samples, ignored):
        super().__init__(samples)
        self.ignore_index = ignored


def results(maps):
    return [types.SimpleNamespace(label_map=one) for one in maps]


def random_maps(seed=0, number=6, ignored=255, strays=True):
    """Truth and prediction of images of several sizes: patches, with ignored pixels and labels that are no class."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(number):
        height, width = rng.integers(12, 60, 2)
        truth = np.kron(rng.integers(0, 4, (height // 6 + 1, width // 6 + 1)), np.ones((6, 6), int))[:height, :width]
        seen = np.where(rng.random(truth.shape) < 0.15, rng.integers(0, 4, truth.shape), np.roll(truth, 1, axis=1))
        truth = np.where(rng.random(truth.shape) < 0.05, ignored, truth)
        if strays:
            truth = np.where(rng.random(truth.shape) < 0.02, 77, truth)
        truths.append(truth)
        found.append(seen)
    return truths, found


def counted(truths, found, ignored=255):
    return count_pixels_of(evaluation(truths, ignored), results(found), len(NAMES))


def test_pixels_of_an_image_by_hand():
    truth = np.array([[0, 0, 1, 255], [0, 2, 1, 9]])
    found = np.array([[0, 1, 1, 1], [0, 2, 2, 3]])
    one = count_image(truth, found, 4, ignored=255)
    assert one.confusion.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert one.unlabelled == 1
    # Two mistakes, and the pixel whose label is no class; no known pixel is far from a boundary.
    assert one.near.tolist() == [3, 3, 7, 7]
    truth[1, 3] = -1
    assert (count_image(truth, found, 4, ignored=255).confusion == one.confusion).all()


@pytest.mark.parametrize("ignored", [255, 2])
def test_means_are_those_of_the_metric(ignored):
    truths, found = random_maps(ignored=ignored)
    numbers = measure_pixels(counted(truths, found, ignored), NAMES, [f"{place}.jpg" for place in range(len(truths))])
    metric = IoUMetric(ignored, iou_metrics=["mIoU", "mDice", "mFscore"])
    metric.dataset_meta = dict(classes=NAMES)
    for truth, seen in zip(truths, found, strict=True):
        maps = dict(pred_sem_seg=seen, gt_sem_seg=truth)
        metric.process({}, [{name: dict(data=torch.as_tensor(one)[None]) for name, one in maps.items()}])
    expected = metric.evaluate(len(truths))
    for name in ("mIoU", "mAcc", "aAcc", "mDice"):
        assert 100 * numbers["means"][name] == pytest.approx(expected[name], abs=1e-9), name
    precisions = [row["precision"] for row in numbers["by_class"] if row["precision"] is not None]
    assert 100 * np.mean(precisions) == pytest.approx(expected["mPrecision"], abs=1e-9)


def test_confusion_is_that_of_scikit_learn():
    truths, found = random_maps(strays=False)
    counts = counted(truths, found)
    flat_truth, flat_found = (np.concatenate([one.ravel() for one in maps]) for maps in (truths, found))
    is_known = flat_truth != 255
    expected = confusion_matrix(flat_truth[is_known], flat_found[is_known], labels=range(4))
    assert (counts.confusion[:4] == expected).all()
    assert counts.confusion[4].sum() == 0
    assert counts.unlabelled == (~is_known).sum()


def slow_boundary(mask, width):
    """Pixels of a mask no further than ``width`` king's moves from what is not the mask, or outside."""
    padded = np.pad(mask, width)
    inner = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        inner[row, column] = padded[row : row + 2 * width + 1, column : column + 2 * width + 1].all()
    return mask & ~inner


def test_boundary_iou_is_its_definition():
    truths, found = random_maps(seed=1, number=4, strays=False)
    counts = counted(truths, found)
    shared, union = np.zeros(4), np.zeros(4)
    for truth, seen in zip(truths, found, strict=True):
        known = truth != 255
        width = max(1, round(0.02 * np.hypot(*truth.shape)))
        for label in range(4):
            ours = slow_boundary((truth == label) & known, width)
            theirs = slow_boundary((seen == label) & known, width)
            shared[label] += (ours & theirs).sum()
            union[label] += (ours | theirs).sum()
    np.testing.assert_allclose(boundary_iou(counts), shared / union, rtol=0, atol=1e-12)
    assert 0.1 < (shared / union).mean() < 0.9


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_boundary_is_where_another_label_or_the_border_is_near(width):
    labels = np.kron(np.array([[0, 1, 1], [2, 2, 1]]), np.ones((7, 9), int)).astype(np.uint16)
    expected = sum(slow_boundary(labels == label, width) for label in range(3))
    assert (boundary(labels, width) == expected.astype(bool)).all()
    same = np.zeros((20, 20), np.uint16)
    assert not boundary(same, width, with_border=False).any()


def test_costs_are_those_of_right_images():
    truths, found = random_maps(seed=2)
    counts = counted(truths, found)
    before = np.nanmean(shares(counts.images.sum(axis=0))["IoU"])
    for place, cost in enumerate(image_costs(counts.images)):
        corrected = [*found]
        is_class = truths[place] < 4
        corrected[place] = np.where(is_class, truths[place], found[place])
        images = counted(
            [np.where(is_class, truths[place], 255) if at == place else truth for at, truth in enumerate(truths)],
            corrected,
        ).images
        # labels that are no class are left out of the corrected image
        after = np.nanmean(shares(images.sum(axis=0))["IoU"])
        assert cost == pytest.approx(after - before, abs=1e-12)
        assert cost > 0


def test_a_class_that_is_nowhere_does_not_count_for_a_cost():
    images = np.array([[[1, 0], [2, 0], [2, 0]]])  # right, found and labelled pixels: the IoU is 1 / 3
    assert image_costs(images) == pytest.approx([2 / 3])
    assert image_costs(np.zeros((2, 3, 2), int)).tolist() == [0, 0]


def test_a_planted_confusion_is_the_first_of_the_mistakes():
    rng = np.random.default_rng(0)
    truths = [np.kron(rng.integers(0, 4, (5, 5)), np.ones((16, 16), int)) for _ in range(30)]
    found = [truth.copy() for truth in truths]
    for one in found[:10]:
        one[one == 3] = 1  # boats are sea
    found[20][:] = (found[20] + 1) % 4
    numbers = measure_pixels(counted(truths, found), NAMES, [f"{place}.jpg" for place in range(30)])
    said = list(findings(numbers))
    lost = sum((truth == 3).sum() for truth in truths[:10])
    wrong = lost + truths[20].size
    boats = sum((truth == 3).sum() for truth in truths)
    expected = f"{lost / wrong:.0%} of all wrong pixels, {lost / boats:.0%} of those of boat."
    assert f"Most pixels are lost where boat is taken for sea: {expected}" in said
    ious = {row["class"]: row["IoU"] for row in numbers["by_class"]}
    mean = np.mean(list(ious.values()))
    low = sorted((iou, name) for name, iou in ious.items() if iou < mean)
    names = ", ".join(f"{name} ({iou:.2f})" for iou, name in low)
    assert f"Lowest IoU: {names}; the mean is {mean:.2f}." in said
    assert numbers["worst_images"][0]["image"] == "20.jpg"
    assert numbers["worst_images"][0]["wrong"] == 1
    assert len(numbers["worst_images"]) == 11  # the others are right
    assert any("whole regions are given a wrong class" in line for line in said)
    assert {row["image"] for row in numbers["worst_images"]} >= {f"{place}.jpg" for place in range(10)}


def test_errors_at_outlines_are_said():
    truth = np.zeros((64, 64), int)
    truth[16:48, 16:48] = 1
    found = np.zeros_like(truth)
    found[14:46, 16:48] = 1
    numbers = measure_pixels(counted([truth], [found]), NAMES, ["a.jpg"])
    # Two rows of 32 pixels at both ends; a ring of 2 pixels (0.02 x 64 x sqrt 2) on both sides of a square of 32.
    near = (32 + 4) ** 2 - (32 - 4) ** 2
    assert numbers["near_boundary"] == dict(distance=0.02, wrong_and_near=128, wrong=128, near=near)
    said = list(findings(numbers))
    where = f"within 2% of the image's diagonal of a boundary, where {near / 64**2:.0%} of all are"
    assert any(line.startswith(f"100% of wrong pixels are {where}") for line in said)
    assert "Not in these images at all: land, boat." in said
    assert "Too few images to judge, fewer than 5: sky, sea." in said


def test_half_of_the_errors_and_unlabelled_pixels_are_said():
    truths = [np.zeros((10, 10), int) for _ in range(20)]
    found = [truth.copy() for truth in truths]
    found[3][:] = 1
    truths[5][:5] = 255
    numbers = measure_pixels(counted(truths, found), NAMES, [f"{place}.jpg" for place in range(20)])
    said = list(findings(numbers))
    assert "1 of 20 images have half of all wrong pixels: look at the worst images." in said
    assert "2% of all pixels have no label, and count neither way." in said  # 50 of 2,000


@pytest.mark.parametrize(("wrong", "half"), [([60, 10, 30], 1), ([40, 35, 25], 2), ([0, 0, 0], 0)])
def test_images_with_half_of_the_errors_are_counted(wrong, half):
    truths = [np.zeros((10, 10), int) for _ in wrong]
    found = [np.where(np.arange(100) < number, 1, 0).reshape(10, 10) for number in wrong]
    numbers = measure_pixels(counted(truths, found), NAMES, ["a.jpg", "b.jpg", "c.jpg"])
    assert numbers["half_of_errors"] == half
    assert not any("half of all wrong pixels" in line for line in findings(numbers))  # one of three is not few
