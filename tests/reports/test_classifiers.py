"""A classifier's numbers beside scikit-learn's, and planted faults."""

import types

import numpy as np
import pytest
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    top_k_accuracy_score,
)

from convnext_dense.errors import UserError
from convnext_dense.reports.classification import measure_classes, score_images
from convnext_dense.reports.classification_page import findings

NAMES = tuple("abcdefgh")


def made_up(number=400, seed=0, sharpness=4.0):
    """Labels, and probabilities that are right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(NAMES) - 1, number)  # no image of the last class
    logits = rng.normal(0, 1.5, (number, len(NAMES)))
    logits[np.arange(number), labels] += sharpness
    probs = np.exp(logits)
    return labels, probs / probs.sum(axis=1, keepdims=True)


def results(probs):
    """Results with all classes, the most probable first."""
    for row in probs:
        order = np.argsort(-row, kind="stable")
        yield types.SimpleNamespace(labels=order, scores=row[order], class_names=NAMES)


def measured(labels, probs):
    return measure_classes(
        score_images(labels, results(probs)), NAMES, [f"{number}.jpg" for number in range(len(labels))]
    )


def test_numbers_are_those_of_scikit_learn():
    labels, probs = made_up()
    numbers = measured(labels, probs)
    best = probs.argmax(axis=1)
    assert numbers["means"]["top1"] == (best == labels).mean()
    assert 0.5 < numbers["means"]["top1"] < 0.95
    expected = top_k_accuracy_score(labels, probs, k=5, labels=range(len(NAMES)))
    assert numbers["means"]["top5"] == pytest.approx(expected)
    assert numbers["means"]["log_loss"] == pytest.approx(log_loss(labels, probs, labels=range(len(NAMES))))
    occurring = sorted(set(labels.tolist()))
    mean = recall_score(labels, best, labels=occurring, average="macro")
    assert numbers["means"]["class_accuracy"] == pytest.approx(mean)
    counts = confusion_matrix(labels, best, labels=range(len(NAMES)))
    assert numbers["confusion"]["counts"] == counts.tolist()
    columns = precision_recall_fscore_support(labels, best, labels=range(len(NAMES)), zero_division=np.nan)
    for key, column in zip(("precision", "recall", "F1", "images"), columns, strict=True):
        ours = [np.nan if row[key] is None else row[key] for row in numbers["by_class"][:-1]]
        np.testing.assert_allclose(ours, column[:-1], atol=1e-12, err_msg=key)
    assert numbers["by_class"][-1]["recall"] is None
    off = counts - np.diag(np.diag(counts))
    assert [pair["images"] for pair in numbers["pairs"]] == sorted(off[off > 0].tolist(), reverse=True)[:20]


def test_the_first_of_equal_classes_wins():
    scored = score_images([1, 0, 7], results(np.full((3, 8), 1 / 8)))
    assert scored.ranks.tolist() == [1, 0, 7]
    assert scored.best.tolist() == [0, 0, 0]


def test_the_fifth_of_the_most_probable_classes_is_in_the_top_5():
    probs = np.tile(np.arange(8, 0, -1) / 36, (3, 1))
    means = measured(np.array([0, 4, 5]), probs)["means"]
    assert (means["top1"], means["top5"]) == (1 / 3, 2 / 3)


def test_swapped_labels_have_the_highest_losses():
    labels, probs = made_up(sharpness=8.0)
    swapped = np.random.default_rng(1).choice(len(labels), 10, replace=False)
    labels[swapped] = (labels[swapped] + 1) % 7
    numbers = measured(labels, probs)
    shown = {row["image"] for row in numbers["worst_images"]}
    assert len(shown & {f"{place}.jpg" for place in swapped}) >= 9
    losses = [row["loss"] for row in numbers["worst_images"]]
    assert len(losses) == 20
    assert losses == sorted(losses, reverse=True)
    assert numbers["worst_images"][0]["label"] != numbers["worst_images"][0]["model"]
    best = probs.argmax(axis=1)
    sure = int(((best != labels) & (probs.max(axis=1) >= 0.95)).sum())
    assert numbers["sure_and_wrong"] == sure >= 5
    assert any(line.startswith(f"{sure} labels are worth a look") for line in findings(numbers))


def test_a_planted_confusion_comes_first():
    labels, probs = made_up(sharpness=12.0)
    is_c = labels == 2
    probs[is_c] = np.roll(probs[is_c], 3, axis=1)  # c is taken for f
    numbers = measured(labels, probs)
    assert (numbers["pairs"][0]["label"], numbers["pairs"][0]["found"]) == ("c", "f")
    assert numbers["pairs"][0]["of"] == is_c.sum() != (labels == 5).sum()
    assert next(findings(numbers)).startswith("c is taken for f")
    assert any(line.startswith("Least often recognised: c (") for line in findings(numbers))
    assert list(findings(numbers))[-1] == "Not in these images at all: h."


def test_scores_that_are_too_sure_are_said():
    labels, probs = made_up(sharpness=1.5)
    surer = probs**4 / (probs**4).sum(axis=1, keepdims=True)
    said = list(findings(measured(labels, surer)))
    assert sum("is taken for" in line for line in said) == 2
    said = [line for line in said if "surer than it is right" in line]
    best = surer.argmax(axis=1)
    gap = surer.max(axis=1).mean() - (best == labels).mean()
    assert said == [
        f"The model is surer than it is right: its scores differ from its accuracy by {gap:.0%} on average."
    ]
    flatter = probs**0.3 / (probs**0.3).sum(axis=1, keepdims=True)
    assert any("less sure than it is right" in line for line in findings(measured(labels, flatter)))


def test_the_matrix_of_very_many_classes_is_left_out():
    names = [str(number) for number in range(2001)]
    found = types.SimpleNamespace(labels=np.arange(2001), scores=np.eye(2001)[7], class_names=names)
    numbers = measure_classes(score_images([3, 7], [found, found]), names, ["a.jpg", "b.jpg"])
    assert numbers["confusion"] is None
    assert numbers["pairs"] == [dict(label="3", found="7", images=1, of=1)]
    assert numbers["means"]["top1"] == 0.5


def test_a_model_that_gives_no_numbers_is_told():
    probs = np.full((2, 8), 1 / 8)
    probs[1] = np.nan
    with pytest.raises(UserError, match="gives for image 2 is no number"):
        score_images([0, 0], results(probs))


def test_an_image_of_no_probability_and_one_of_just_enough():
    """The loss of a label that is impossible is finite; 0.95 for another class is sure."""
    probs = np.zeros((2, 8))
    probs[0, :2] = 0.0, 1.0
    probs[1, :2] = 0.05, 0.95
    numbers = measured(np.array([0, 0]), probs)
    first, second = numbers["worst_images"]
    assert (first["label_score"], first["score"], first["loss"]) == (0, 1, pytest.approx(-np.log(1e-12)))
    assert (second["label_score"], second["score"], second["loss"]) == (0.05, 0.95, pytest.approx(-np.log(0.05)))
    assert numbers["sure_and_wrong"] == 2


def test_scores_that_are_as_sure_as_right_are_not_spoken_of():
    """Of 50 images with a score of 0.98, one is wrong."""
    probs = np.zeros((50, 8))
    probs[:, :2] = 0.98, 0.02
    said = findings(measured(np.array([0] * 49 + [1]), probs))
    assert not any("than it is right" in line for line in said)
