"""Pairs and errors, beside tidecv and pycocotools on the same objects."""

import contextlib
import io

import numpy as np
import pytest
from made_up import made_up

from convnext_dense.reports import matching
from convnext_dense.reports.matching import KINDS, Found, Labelled, error_costs, match, mean_precision, points
from convnext_dense.reports.objects import error_rows

TIDE_NAMES = dict(Cls=1, Loc=2, Both=3, Dupe=4, Bkg=5, Miss=6)


def tide_of(labelled, found, *, iou=0.5, by_mask=False):
    """The mAP and the cost of each kind of error by tidecv."""
    import tidecv

    truth, predictions = tidecv.Data("truth"), tidecv.Data("found", max_dets=100)
    for image in range(1 + max(labelled.images.max(), found.images.max())):
        truth.add_image(image, str(image))  # it leaves out images that it is not told of
    size = lambda box: [*box[:2], *(box[2:] - box[:2])]  # noqa: E731
    masks = labelled.rles or [None] * len(labelled.labels)
    for image, label, box, is_crowd, rle in zip(
        labelled.images.tolist(), labelled.labels.tolist(), labelled.boxes, labelled.is_crowd, masks, strict=True
    ):
        add = truth.add_ignore_region if is_crowd else truth.add_ground_truth
        add(image, label, size(box), rle)
    masks = found.rles or [None] * len(found.labels)
    for image, label, score, box, rle in zip(
        found.images.tolist(), found.labels.tolist(), found.scores.tolist(), found.boxes, masks, strict=True
    ):
        predictions.add_detection(image, label, score, size(box), rle)
    tide = tidecv.TIDE()
    with contextlib.redirect_stdout(io.StringIO()):
        run = tide.evaluate(truth, predictions, pos_threshold=iou, mode=tide.MASK if by_mask else tide.BOX)
    costs = tide.get_main_errors()["found"]
    counts = {error.short_name: number for error, number in run.count_errors().items()}
    return (
        run.ap / 100,
        {TIDE_NAMES[name]: cost / 100 for name, cost in costs.items()},
        {TIDE_NAMES[name]: number for name, number in counts.items()},
    )


def assert_as_tidecv(labelled, found, iou=0.5):
    """Compare what objects of four classes cost, and return the costs."""
    matches = match(labelled, found, iou=iou)
    expected_ap, expected, counts = tide_of(labelled, found, iou=iou)
    assert mean_precision(points(matches, 4)) == pytest.approx(expected_ap, abs=1e-9)
    costs = error_costs(matches, 4)
    for kind, name in KINDS.items():
        assert costs[kind] == pytest.approx(expected[kind], abs=1e-9), name
    ours = {kind: int((matches.kinds == kind).sum()) for kind in KINDS} | {
        matching.MISSED: int(matches.is_missed.sum())
    }
    assert ours == counts
    return costs


def test_objects_beyond_a_hundred_of_an_image_count():
    number = 130
    corners = np.stack([np.arange(number) * 12.0, np.zeros(number)], axis=1)
    boxes = np.hstack([corners, corners + 10])
    images, labels = np.zeros(number, int), np.zeros(number, int)
    matches = match(
        Labelled(images, labels, boxes, np.zeros(number, bool)),
        Found(images, labels, boxes, np.linspace(1, 0.5, number)),
    )
    assert matches.is_true.sum() == number
    assert not matches.is_missed.any()


def test_what_lies_in_a_crowd_is_no_error_and_corrects_none():
    """A crowd of a, in it a labelled b, and a found a where b is: it counts neither way, and b is missed."""
    boxes = np.array([[0.0, 0, 100, 100], [10, 10, 30, 30]])
    labelled = Labelled(np.zeros(2, int), np.array([0, 1]), boxes, np.array([True, False]))
    found = Found(np.zeros(1, int), np.zeros(1, int), boxes[1:], np.array([0.9]))
    matches = match(labelled, found)
    assert matches.is_ignored.tolist() == [True]
    assert matches.is_missed.tolist() == [False, True]
    rows = {row["error"]: row["number"] for row in error_rows(matches, error_costs(matches, 2))}
    assert rows == dict.fromkeys(rows, 0) | dict(missed=1)


@pytest.fixture
def _recalls_of_tidecv(monkeypatch):
    monkeypatch.setattr(matching, "RECALLS", np.arange(101) / 100)  # COCO's differ in the last digit


@pytest.mark.usefixtures("_recalls_of_tidecv")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_errors_cost_what_tidecv_says(seed, iou):
    costs = assert_as_tidecv(*made_up(40, seed=seed), iou)
    assert sum(cost > 0.001 for cost in costs.values()) >= 5  # they are not all nothing


@pytest.mark.usefixtures("_recalls_of_tidecv")
@pytest.mark.parametrize("seed", range(4))
def test_objects_at_the_limits_are_those_of_tidecv(seed):
    """Found boxes are a whole labelled one, its half, or its tenth, so that IoUs are 1, 0.5 and 0.1; some are moved."""
    rng = np.random.default_rng(seed)
    labelled, found = [], []
    for image in range(30):
        for place in range(4):
            left, label = 100.0 * place, rng.integers(4)
            labelled.append((image, label, [left, 0, left + 10, 10], rng.random() < 0.1))
            for height in rng.choice([10, 5, 1], rng.integers(0, 4)):
                seen = label if rng.random() < 0.7 else rng.integers(4)
                top = rng.choice([0, -height / 2])
                found.append((image, seen, [left, top, left + 10, top + height], rng.random()))
    columns = [[np.array(column) for column in zip(*rows, strict=True)] for rows in (labelled, found)]
    costs = assert_as_tidecv(Labelled(*columns[0]), Found(*columns[1]))
    assert all(cost > 0 for cost in costs.values())
