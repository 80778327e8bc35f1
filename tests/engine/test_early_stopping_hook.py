"""When evaluations count as better; the numbers are arithmetic by hand."""

from convnext_dense.engine.early_stopping_hook import EarlyStoppingHook


def waits(hook, scores):
    counts = []
    for score in scores:
        hook._check_stop_condition(score)
        counts.append(hook.wait_count)
    return counts


def test_gain_is_a_share_of_the_best():
    """0.002 x 50 = 0.1."""
    assert waits(EarlyStoppingHook(9, monitor="mIoU", rule="greater"), [50.0, 50.05, 50.2]) == [0, 1, 0]


def test_loss_is_better_if_it_falls():
    assert waits(EarlyStoppingHook(9, monitor="loss", rule="less"), [1.0, 0.9995, 1.5, 0.99]) == [0, 1, 2, 0]
