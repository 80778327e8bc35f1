"""What pairs say about a detector and about labels: counted by hand, beside scikit-learn, and with planted faults."""

import numpy as np
import pytest
from made_up import made_up
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve

from convnext_dense.reports.matching import (
    BACKGROUND,
    CLASSIFICATION,
    KINDS,
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
from convnext_dense.reports.measured import calibration, calibration_error, listed
from convnext_dense.reports.objects import (
    best_score,
    confusion,
    error_rows,
    size_shares,
    suspects,
    worst_images,
)

BOXES = {"a": [0, 0, 20, 20], "b": [40, 0, 60, 20], "c": [0, 40, 20, 60], "far": [200, 200, 220, 220]}


def scene(labelled, found, crowds=(), **limits):
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
    return match(truth, given, **limits)


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


def test_an_object_at_the_threshold_counts():
    """The threshold of the highest F1 is the score of an object, which has to be among those that count."""
    matches = scene([("a", 0)], [("a", 0, 0.5)])
    assert confusion(matches, 1, score_thr=0.5).tolist() == [[1, 0], [0, 0]]


def test_what_lies_in_a_crowd_of_another_class_counts():
    matches = scene([("a", 1)], [("a", 0, 0.9)], crowds=("a",))
    assert matches.is_ignored.tolist() == [False]


def test_no_more_objects_of_an_image_than_are_asked_for_count():
    """The right one is the hundredth, or the one after; by default all count."""
    for wrong, is_found in ((99, True), (100, False)):
        objects = [("a", 0)], [*[("far", 0, 0.9)] * wrong, ("a", 0, 0.8)]
        assert scene(*objects, max_per_image=100).is_found.tolist() == [is_found]
        assert scene(*objects).is_found.tolist() == [True]


def test_without_objects_there_is_nothing_to_find():
    assert mean_precision(points(scene([], [("far", 0, 0.9)]), 1)) == 1


RIGHT_CATS = [("b", 0, 0.99), ("c", 0, 0.99), ("far", 0, 0.99)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([("a", 1, 0.9)], [("class", 0.9)]),
        ([("a", 1, 0.9), ("a", 0, 0.5)], [("class", 0.4)]),  # it finds the cat there too
        ([("a", 1, 0.9), ([0, 0, 20, 8], 0, 0.4)], [("class", 0.5)]),  # in a box of IoU 0.4: as a box, 0.24
        ([("a", 1, 0.9), ("a", 0, 0.5), ([0, 0, 20, 8], 0, 0.1)], [("class", 0.4)]),  # the surest says it
        ([("a", 1, 0.9), ("a", 1, 0.8)], [("class", 0.9)]),  # one label is one suspect
        ([([0, 0, 20, 8], 0, 0.9)], [("box", 0.54)]),  # IoU 0.4
        ([("a", 0, 0.95), ([0, 0, 20, 8], 0, 0.9)], []),  # the label's box is found as well
        ([([300, 300, 320, 320], 0, 0.3)], [("missing", 0.3)]),
        ([([300, 300, 320, 320], 0, 0.29)], []),
    ],
)
def test_evidence_against_a_label_by_hand(found, expected):
    """Four cats; all but the first are found, so that no class is taken for another one as a rule."""
    cats = [(place, 0) for place in BOXES]
    chosen = suspects(scene(cats, [*RIGHT_CATS, *found]), 2)
    assert [one.kind for one in chosen] == [kind for kind, _ in expected]
    assert [one.evidence for one in chosen] == pytest.approx([evidence for _, evidence in expected])


def test_a_class_that_is_often_taken_for_another_is_less_suspicious():
    """Two of four cats are dogs to the model, as sure as it is of the others: 0.9 * (1 - 2 / 4)."""
    found = [("a", 0, 0.9), ("b", 0, 0.9), ("c", 1, 0.9), ("far", 1, 0.9)]
    chosen = suspects(scene([(place, 0) for place in BOXES], found), 2)
    assert [(one.kind, one.evidence) for one in chosen] == [("class", pytest.approx(0.45))] * 2


def test_no_label_is_missing_in_a_crowd():
    crowd = ("far", 0)
    assert suspects(scene([("a", 0), crowd], [("a", 0, 0.9), ("far", 0, 0.9)], crowds=("far",)), 1) == []


def test_no_more_than_twenty_labels_of_a_kind_are_suspects():
    found = [([100 * place, 300, 100 * place + 20, 320], 0, 0.9) for place in range(25)]
    assert len(suspects(scene([("a", 0)], found), 1)) == 20


@pytest.mark.parametrize(
    ("area", "size"), [(32**2 - 1, "small"), (32**2, "medium"), (96**2 - 1, "medium"), (96**2, "large")]
)
def test_sizes_are_those_of_coco(area, size):
    """Of two objects, one is found: precision 1 up to recall 1/2. Without the other, it would be 1."""
    matches = scene([("a", 0), ("b", 0)], [("a", 0, 0.9)])
    rises = size_shares(matches, 1, np.array([10, area]))
    assert rises == {name: pytest.approx(1 - 51 / 101 if name == size else 0) for name in ("small", "medium", "large")}


def test_a_class_without_missed_objects_is_whole():
    """One class has a precision of 1/2, the other one is never found: without its object, it would have 1."""
    matches = scene([("a", 0), ("b", 1)], [("far", 0, 0.95), ("a", 0, 0.9)])
    assert size_shares(matches, 2, np.array([10, 10])) == dict(small=0.5, medium=0, large=0)


def test_errors_are_counted():
    matches = scene([("a", 0), ("b", 0), ("c", 0)], [("a", 0, 0.9), ("far", 0, 0.9), ("far", 1, 0.8)])
    rows = error_rows(matches, dict.fromkeys(KINDS, 0.25))
    numbers = {row["error"]: row["number"] for row in rows}
    assert numbers == dict(classification=0, localisation=0, both=0, duplicate=0, background=2, missed=2)
    assert {row["cost"] for row in rows} == {0.25}


def test_certain_scores_are_in_the_last_tenth():
    rows = calibration(np.array([1.0, 0.95, 0.9]), np.array([True, True, False]))
    assert rows == [dict(objects=3, score=pytest.approx(0.95), precision=pytest.approx(2 / 3))]


def scenes(labelled, found):
    """Objects of several images: ``(image, place, class)`` and ``(image, place, class, score)``."""
    images, places, labels = zip(*labelled, strict=True)
    boxes = np.array([BOXES[place] for place in places], float)
    truth = Labelled(np.array(images), np.array(labels), boxes, np.zeros(len(labels), bool))
    images, places, labels, scores = zip(*found, strict=True)
    return match(
        truth, Found(np.array(images), np.array(labels), np.array([BOXES[place] for place in places]), np.array(scores))
    )


def test_an_image_whose_objects_are_all_of_a_class_can_cost_all_of_it():
    """The only dog is taken for nothing, and something surer than a cat is no cat: half of that, and all of this."""
    matches = scenes([(0, "a", 1), (1, "a", 0)], [(0, "far", 0, 0.9), (1, "a", 0, 0.8)])
    assert worst_images(matches, 2, 2) == [(0, pytest.approx((1 + 1 / 2) / 2))]


def test_images_that_cost_the_same_are_in_their_order():
    """Precision 3/5 at every recall without one of two errors above all that is right; 3/4 without one."""
    cats = [(image, "a", 0) for image in range(3)]
    found = [(image, "a", 0, 0.5) for image in range(3)] + [(2, "far", 0, 0.9), (1, "far", 0, 0.9)]
    assert worst_images(scenes(cats, found), 3, 1) == [(1, pytest.approx(3 / 20)), (2, pytest.approx(3 / 20))]


def test_a_missed_object_can_be_the_worst_error():
    """Ten images with an error below nearly all that is right, and the last with three missed of 23 objects."""
    cats = [(image, place, 0) for image in range(10) for place in "ab"] + [(10, place, 0) for place in "abc"]
    found = [(image, place, 0, 0.9) for image in range(10) for place in "ab"]
    found[0] = (0, "a", 0, 0.1)
    found += [(image, "far", 0, 0.2) for image in range(10)]
    ((image, cost),) = worst_images(scenes(cats, sorted(found)), 11, 1, number=1)
    assert image == 10
    assert cost > 0.1


def test_long_lists_say_how_many_more():
    names = [str(number) for number in range(11)]
    assert listed(names[:10]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(names) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1 more"
