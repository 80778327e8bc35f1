"""What figures show, read back from Bokeh's own objects and counted by hand."""

import numpy as np
import pytest

from convnext_dense.reports import figures


def drawn(plot, kind):
    """The data of the only glyph of a kind."""
    (source,) = {one.data_source for one in plot.renderers if type(one.glyph).__name__ == kind}
    return source.data


def test_a_confusion_matrix_has_the_shares_of_its_rows():
    plot = figures.heat_map("", ["cat", "dog"], np.array([[3, 1], [0, 2]]))
    data = drawn(plot, "Rect")
    pairs = zip(data["labelled"], data["found"], strict=True)
    cells = {pair: place for place, pair in enumerate(pairs)}
    assert data["share"][cells["cat", "dog"]] == 1 / 4
    assert (data["count"][cells["cat", "dog"]], data["text"][cells["dog", "cat"]]) == (1, "")
    for (labelled, found), place in cells.items():
        names = plot.yaxis[0].major_label_overrides, plot.xaxis[0].major_label_overrides
        assert names[0][data["row"][place]] == labelled
        assert names[1][data["column"][place]] == found
    shown = figures.heat_map("", ["cat", "dog"], np.array([[3, 1], [0, 2]]), in_percent=True)
    assert drawn(shown, "Rect")["text"] == ["75", "25", "", "100"]


def test_of_many_classes_those_with_the_most_errors_are_in_the_matrix(monkeypatch):
    monkeypatch.setattr(figures, "MAX_NAMES", 2)
    counts = np.diag([100, 3, 5])
    counts[1, 2] = 1
    data = drawn(figures.heat_map("", ["sure", "this", "that"], counts), "Rect")
    assert set(data["found"]) == {"this", "that"}


def test_of_many_bars_the_longest_are_shown(monkeypatch):
    monkeypatch.setattr(figures, "MAX_NAMES", 2)
    plot = figures.bars("Objects", ["a", "b", "c"], [5, 1, 3], y="objects")
    data = drawn(plot, "VBar")
    assert (data["name"], data["top"]) == (["a", "c"], [5, 3])
    assert plot.title.text == "Objects (2 of 3)"


def test_a_few_whole_numbers_have_a_bar_each():
    data = drawn(figures.histogram("", np.array([0, 1, 1, 3]), x=""), "Quad")
    assert data["top"].tolist() == [1, 2, 0, 1]
    assert ((data["left"] + data["right"]) / 2).tolist() == [0, 1, 2, 3]


def test_sizes_are_counted_in_equal_factors():
    data = drawn(figures.histogram("", np.array([0.0, 1.0, 16.0, np.nan]), x="", is_log=True), "Quad")
    assert data["top"].sum() == 2  # zero has no place on the axis
    assert (data["left"][0], data["right"][-1]) == (1, pytest.approx(16))
    np.testing.assert_allclose(data["right"] / data["left"], 16 ** (1 / len(data["top"])))


def test_points_of_a_run_say_their_epoch():
    plot = figures.lines("", [("loss", [5, 10], [2.0, 1.0])], y="loss", end=10, epoch_length=4)
    assert drawn(plot, "Line")["epoch"] == [1.25, 2.5]
