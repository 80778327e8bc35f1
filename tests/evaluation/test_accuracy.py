"""Top-k accuracy against counting by hand, and refused arguments."""

import pytest
import torch

from convnext_dense.evaluation import Accuracy


def evaluate(scores, labels, **kwargs):
    metric = Accuracy(**kwargs)
    samples = [dict(scores=torch.as_tensor(row)) for row in scores]
    metric.process(dict(labels=torch.tensor(labels)), samples)
    return metric.evaluate(len(samples))


SCORES = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.2, 0.5, 0.3]]


def test_accuracy_is_the_share_of_images_whose_class_is_among_the_first_k():
    metrics = evaluate(SCORES, [0, 1, 2, 1], topk=(1, 2, 3))
    assert metrics == {"accuracy/top1": 0.5, "accuracy/top2": 0.75, "accuracy/top3": 1.0}


def test_k_above_the_number_of_classes_counts_all_classes():
    assert evaluate(SCORES, [0, 1, 2, 1]) == {"accuracy/top1": 0.5, "accuracy/top5": 1.0}


def test_one_k_may_be_a_number_and_results_have_another_prefix():
    assert evaluate(SCORES, [0, 1, 2, 1], topk=2, prefix="val") == {"val/top2": 0.75}


def test_images_are_counted_in_whole_numbers():
    """Single precision would make 16,777,216 of 2**24 + 1 hits."""
    metric = Accuracy()
    ranks = [0] * 3 + [9]
    metrics = metric.compute_metrics(ranks * 1001)
    assert metrics == {"top1": 0.75, "top5": 0.75}
    assert (torch.zeros(2**24 + 1, dtype=torch.int8) < 1).double().mean() == 1


@pytest.mark.parametrize("topk", [0, (1, 0), (), (1.5,), "5", (True,)], ids=repr)
def test_invalid_values_of_k_are_refused(topk):
    with pytest.raises(ValueError, match="must be whole numbers from 1 on"):
        Accuracy(topk)


@pytest.mark.parametrize("label", [3, -1])
def test_label_that_is_not_a_class_is_reported(label):
    with pytest.raises(ValueError, match=f"Label {label} is not one of the model's 3 classes"):
        evaluate(SCORES[:1], [label])
