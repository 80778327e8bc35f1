"""What pairs say about a detector and about labels: counted by hand, beside scikit-learn, and with planted faults."""

import numpy as np
import pytest
from made_up import made_up
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve

from convnext_dense.reports.matching import (
    BACKGROUND,
    CLASSIFICATION,
    LOCALISATION,
    MISSED,
    NOTHING,
    Found,
    Labelled,
    average_precision,
    class_precisions,
    error_costs,
    match,
    mean_precision,
    points,
    precision_recall,
)
from convnext_dense.reports.measured import calibration, calibration_error
from convnext_dense.reports.objects import (
    best_score,
    confusion,
    size_shares,
    suspects,
    worst_images,
)

BOXES = {"a": [0, 0, 20, 20], "b": [40, 0, 60, 20], "c": [0, 40, 20, 60], "far": [200, 200, 220, 220]}


def scene(labelled, found, crowds=()):
    """Objects of image 0: ``(place, class)`` and ``(place or box, class, score)``."""
    boxes = [BOXES.get(place, place) if isinstance(place, str) else place for place, *_ in labelled]
    truth = Labelled(
        np.zeros(len(labelled), int),
        np.array([label for _, label in labelled], int),
        np.array(boxes, float).reshape(-1, 4),
        np.array([place in crowds for place, _ in labelled], bool),
    )
    boxes = [BOXES[place] if isinstance(place, str) else place for place, *_ in found]
    given = Found(
        np.zeros(len(found), int),
        np.array([label for _, label, _ in found], int),
        np.array(boxes, float).reshape(-1, 4),
        np.array([score for *_, score in found], float),
    )
    return match(truth, given)


def test_confusion_is_counted_by_hand():
    matches = scene(
        [("a", 0), ("b", 0), ("c", 1)],
        [("a", 0, 0.9), ("b", 1, 0.8), ("b", 1, 0.7), ("c", 1, 0.3), ("far", 1, 0.95), ("far", 0, 0.2)],
    )
    assert confusion(matches, 2, score_thr=0.5).tolist() == [[1, 1, 0], [0, 0, 1], [0, 2, 0]]
    assert confusion(matches, 2, score_thr=0.25).tolist() == [[1, 1, 0], [0, 1, 0], [0, 2, 0]]
    assert confusion(matches, 2, score_thr=0.0).tolist() == [[1, 1, 0], [0, 1, 0], [1, 2, 0]]


def test_crowds_count_for_nothing():
    matches = scene([("a", 0), ("b", 0)], [("a", 0, 0.9), ("b", 0, 0.8)], crowds=("b",))
    assert matches.counts.tolist() == [True, False]
    assert matches.is_ignored.tolist() == [False, True]
    assert confusion(matches, 1, score_thr=0.0).tolist() == [[1, 0], [0, 0]]
    assert mean_precision(points(matches, 1)) == 1


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (("a", 0, 0.9), NOTHING),
        (("a", 1, 0.9), CLASSIFICATION),
        (([5, 0, 25, 20], 0, 0.9), NOTHING),  # IoU 15 / 25 = 0.6
        (([10, 0, 30, 20], 0, 0.9), LOCALISATION),  # 10 / 30
        (("far", 0, 0.9), BACKGROUND),
    ],
)
def test_kinds_of_errors_by_hand(found, kind):
    matches = scene([("a", 0)], [found])
    assert matches.kinds.tolist() == [kind]
    assert matches.is_missed.tolist() == [kind == BACKGROUND]


def test_costs_by_hand():
    matches = scene([("a", 0), ("b", 0)], [("far", 0, 0.9), ("a", 0, 0.8)])
    # Precision 1/2 up to recall 1/2: 51 of 101 recalls.
    assert mean_precision(points(matches, 1)) == pytest.approx(51 / 101 / 2)
    costs = error_costs(matches, 1)
    assert costs[BACKGROUND] == pytest.approx(51 / 101 - 51 / 101 / 2)
    assert costs[MISSED] == pytest.approx(1 / 2 - 51 / 101 / 2)
    assert worst_images(matches, 1, 1) == [(0, pytest.approx(1 - 51 / 101 / 2))]
    assert size_shares(matches, 1, np.array([400.0, 2000.0])) == {
        "small": 0.0,
        "medium": pytest.approx(1 / 2 - 51 / 101 / 2),
        "large": 0.0,
    }


def test_precision_and_recall_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, is_true = rng.random(500), rng.random(500) < 0.4
    precision, recall = precision_recall(scores, is_true, int(is_true.sum()))
    theirs, their_recall, _ = precision_recall_curve(is_true, scores)
    np.testing.assert_allclose(precision[::-1][: len(theirs) - 1], theirs[:-1])
    np.testing.assert_allclose(recall[::-1][: len(theirs) - 1], their_recall[:-1])
    # COCO's has an envelope and 101 recalls, so it is somewhat above.
    ours = average_precision(scores, is_true, int(is_true.sum()))
    assert 0 <= ours - average_precision_score(is_true, scores) < 0.03


def test_best_score_is_the_best_of_all():
    rng = np.random.default_rng(1)
    scores, is_true = rng.random(300).round(2), rng.random(300) < 0.5
    best = best_score(scores, is_true, 200)

    def f1(score):
        kept = scores >= score
        right = is_true[kept].sum()
        return 2 * right / (kept.sum() + 200)

    values = {score: f1(score) for score in np.unique(scores)}
    assert best.f1 == pytest.approx(max(values.values()))
    assert values[best.score] == pytest.approx(best.f1)
    assert best_score(np.zeros(0), np.zeros(0, bool), 3) is None
    assert best_score(scores, is_true, 0) is None


def test_calibration_is_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    scores = rng.random(1000)
    is_true = rng.random(1000) < scores**2
    rows = calibration(scores, is_true)
    precision, score = calibration_curve(is_true, scores, n_bins=10)
    np.testing.assert_allclose([row["precision"] for row in rows], precision)
    np.testing.assert_allclose([row["score"] for row in rows], score)
    weights = np.histogram(scores, bins=10, range=(0, 1))[0]
    assert calibration_error(rows) == pytest.approx((weights * np.abs(precision - score)).sum() / 1000)


@pytest.mark.parametrize("seed", range(3))
def test_the_worst_images_cost_what_leaving_their_errors_out_gives(seed):
    labelled, found = made_up(30, seed=seed)
    matches = match(labelled, found)
    before = np.nanmean(class_precisions(points(matches, 4)))
    worst = worst_images(matches, 30, 4, number=30)
    assert [cost for _, cost in worst] == sorted((cost for _, cost in worst), reverse=True)
    for image, cost in worst[:5]:
        is_right = matches.found.images != image
        is_right |= matches.is_true
        kept = matches.found.take(np.flatnonzero(is_right))
        stays = (labelled.images != image) | matches.is_found | labelled.is_crowd
        left = Labelled(*(value[stays] for value in labelled[:4]))
        after = np.nanmean(class_precisions(points(match(left, kept), 4)))
        assert cost == pytest.approx(after - before, abs=1e-9)


def planted(seed=0, num_images=200):
    """A good detector, and labels of which 10 have another class, 10 are gone, and 10 boxes are moved."""
    rng = np.random.default_rng(seed)
    images, labels, boxes, found = [], [], [], []
    for image in range(num_images):
        for place in range(4):
            box = np.array([100 * place + 10, 20, 100 * place + 70, 80]) + rng.uniform(-5, 5, 4)
            label = int(rng.integers(4))
            images.append(image)
            labels.append(label)
            boxes.append(box)
            # Class 3 is taken for class 2 in a third of all cases, which is the model's fault.
            seen = 2 if label == 3 and rng.random() < 0.33 else label
            found.append((image, seen, box + rng.normal(0, 2, 4), rng.uniform(0.7, 0.99)))
            if rng.random() < 0.3:
                found.append((image, int(rng.integers(4)), box + rng.normal(0, 40, 4), rng.uniform(0.05, 0.4)))
    labels, boxes = np.array(labels), np.array(boxes)
    chosen = rng.permutation(np.flatnonzero(labels < 2))[:30]
    swapped, removed, moved = chosen[:10], chosen[10:20], chosen[20:]
    labels[swapped] = 1 - labels[swapped]
    boxes[moved] += 30
    stays = np.setdiff1d(np.arange(len(labels)), removed)
    truth = Labelled(np.array(images)[stays], labels[stays], boxes[stays], np.zeros(len(stays), bool))
    columns = [np.array(column) for column in zip(*found, strict=True)]
    faults = {
        "class": {(images[number], boxes[number][0]) for number in swapped},
        "missing": {(images[number], round(boxes[number][0] / 100)) for number in removed},
        "box": {(images[number], boxes[number][0]) for number in moved},
    }
    return truth, Found(*columns), faults


@pytest.mark.parametrize("seed", range(3))
def test_planted_faults_are_in_the_top_of_the_right_lists(seed):
    labelled, found, faults = planted(seed)
    matches = match(labelled, found)
    chosen = suspects(matches, 4)
    for kind in ("class", "box"):
        top = [one for one in chosen if one.kind == kind][:10]
        places = {(one.image, labelled.boxes[one.labelled][0]) for one in top}
        assert len(places & faults[kind]) >= 9, kind
    top = [one for one in chosen if one.kind == "missing"][:10]
    places = {(one.image, round(matches.found.boxes[one.found][0] / 100)) for one in top}
    assert len(places & faults["missing"]) >= 9
    evidence = [one.evidence for one in chosen if one.kind == "class"]
    assert evidence == sorted(evidence, reverse=True)


def test_a_class_that_is_confused_on_purpose_is_the_worst_pair():
    labelled, found, _ = planted()
    counts = confusion(match(labelled, found), 4, score_thr=0.5)[:-1, :-1]
    off = counts - np.diag(np.diag(counts))
    assert np.unravel_index(off.argmax(), off.shape) == (3, 2)
