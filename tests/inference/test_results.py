"""What a result gives: plain values, COCO's format, tables, supervision's classes, and pictures."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as masks

from convnext_dense.data.run_lengths import compress
from convnext_dense.inference import ClassScores, Detections, LabelMap, to_result

MASKS = np.zeros((2, 6, 8), bool)
MASKS[0, 1:3, 2:6] = True
MASKS[1, 4:, :3] = True
FOUND = Detections(
    boxes=np.array([[2, 1, 6, 3], [0, 4, 3, 6]], np.float32),
    scores=np.array([0.75, 0.25], np.float32),
    labels=np.array([1, 0]),
    class_names=("cat", "dog"),
    shape=(6, 8),
    rles=tuple(map(compress, MASKS)),
)
LABELS = LabelMap(np.array([[0, 1, 1], [1, 1, 0]]), ("sky", "sea", "sand"), [[10, 20, 30], [40, 50, 60], [0, 0, 0]])
CLASSES = ClassScores(np.array([0.75, 0.25], np.float32), np.array([2, 0]), ("a", "b", "c"))


def test_objects_are_a_mapping_of_plain_values():
    assert list(FOUND) == ["boxes", "scores", "labels", "names", "class_names", "masks"]
    assert FOUND["names"] == ["dog", "cat"]
    np.testing.assert_array_equal(FOUND["masks"], MASKS)
    assert FOUND.to_dict().keys() == dict(FOUND).keys()
    without = Detections(FOUND.boxes, FOUND.scores, FOUND.labels, FOUND.class_names, (6, 8))
    assert "masks" not in without
    assert without.get("masks") is None
    assert without.masks is None
    with pytest.raises(KeyError):
        without["ids"]


def test_objects_in_coco_format_have_corner_and_size_and_masks_of_pycocotools():
    first, second = FOUND.to_coco("a.jpg")
    assert first["bbox"] == [2, 1, 4, 2]
    assert (first["image_id"], first["category_id"], first["category_name"], first["score"]) == (
        "a.jpg",
        2,
        "dog",
        0.75,
    )
    np.testing.assert_array_equal(masks.decode(second["segmentation"]), MASKS[1])
    assert json.loads(json.dumps([first, second])) == [first, second]


def test_some_objects_are_taken_by_position_or_condition():
    for kept in ([1], FOUND.scores < 0.5):
        taken = FOUND.take(kept)
        assert taken.names == ["cat"]
        np.testing.assert_array_equal(taken.masks, MASKS[1:])
    assert FOUND.take([]).masks.shape == (0, 6, 8)


def test_label_map_says_what_covers_how_much():
    assert LABELS.to_rows() == [
        dict(name="sea", share=4 / 6, pixels=4, label=1),
        dict(name="sky", share=2 / 6, pixels=2, label=0),
    ]
    assert LABELS.summary() == "sea 66.7%, sky 33.3%"
    sky, sea = LABELS.to_coco(7)
    assert (sky["category_id"], sky["image_id"], sea["category_name"]) == (1, 7, "sea")
    np.testing.assert_array_equal(masks.decode(sea["segmentation"]), LABELS.label_map == 1)


def test_tables_have_a_row_per_object_or_class():
    pandas = pytest.importorskip("pandas")
    table = FOUND.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert table.columns.tolist() == ["name", "score", "x1", "y1", "x2", "y2", "label"]
    assert table.loc[1, ["name", "x1", "y2"]].tolist() == ["cat", 0, 6]
    assert CLASSES.to_pandas()["name"].tolist() == ["c", "a"]


def test_supervision_is_given_the_same_objects():
    pytest.importorskip("supervision")
    given = FOUND.to_supervision()
    np.testing.assert_array_equal(given.xyxy, FOUND.boxes)
    np.testing.assert_array_equal(given.mask, MASKS)
    assert given.data["class_name"].tolist() == ["dog", "cat"]
    areas = LABELS.to_supervision()
    assert areas.class_id.tolist() == [0, 1]
    assert areas.area.tolist() == [2, 4]
    assert CLASSES.to_supervision().class_id.tolist() == [2, 0]


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ValueError, match="pandas is not installed: pip install pandas"):
        FOUND.to_pandas()
    with pytest.raises(ValueError, match="COCO has no results of classifiers"):
        CLASSES.to_coco()


def test_plain_values_make_the_same_result():
    for result in (FOUND, LABELS, CLASSES):
        again = to_result(result.to_dict(), (6, 8))
        assert type(again) is type(result)
        assert again.to_rows() == result.to_rows()
    assert to_result(FOUND.to_dict(), (6, 8)).to_coco() == FOUND.to_coco()
    assert to_result(FOUND, (1, 1)) is FOUND


def test_pictures_of_frames_have_one_size():
    black = np.zeros((60, 80, 3), np.uint8)
    for height in (1, 3):
        labels = np.zeros((60, 80), int)
        labels[:height] = 1
        painted = LabelMap(labels, LABELS.class_names, LABELS.palette).overlay(black)
        assert painted.shape == (480, 640, 3)
        np.testing.assert_allclose(painted[-1, -1], np.array([30, 20, 10]) * 0.55, atol=1)  # BGR
        np.testing.assert_allclose(painted[0, 0], np.array([60, 50, 40]) * 0.55, atol=1)
    assert LABELS.draw(np.zeros((2, 3, 3), np.uint8)).shape[1] > 2 * 640


def test_tracks_are_in_every_form():
    pytest.importorskip("supervision")
    tracked = Detections(**{**vars(FOUND.take([0])), "ids": np.array([7])})
    assert tracked["ids"].tolist() == [7]
    assert tracked.to_coco()[0]["track_id"] == 7
    assert tracked.to_rows()[0]["id"] == 7
    assert tracked.take([0]).ids.tolist() == [7]
    assert tracked.to_supervision().tracker_id.tolist() == [7]
    picture = np.full((480, 640, 3), 100, np.uint8)
    tracked, plain = (
        replace(tracked, shape=(480, 640), rles=None),
        replace(FOUND.take([0]), shape=(480, 640), rles=None),
    )
    assert (tracked.draw(picture) != plain.draw(picture)).any()
    new = replace(tracked, ids=np.array([0]))
    assert "track_id" not in new.to_coco()[0]
    np.testing.assert_array_equal(new.draw(picture), plain.draw(picture))


def test_some_classes_are_kept_in_everything():
    only = FOUND.only(["cat"])
    assert (only.names, len(only.to_coco()), only.summary(score_thr=0)) == (["cat"], 1, "1 object (cat)")
    np.testing.assert_array_equal(only.masks, MASKS[1:])
    assert FOUND.only(score_thr=0.5).names == ["dog"]
    assert FOUND.only(["cat"], score_thr=0.5).names == []
    assert FOUND.only().names == FOUND.names

    sea = LABELS.only(["sea"])
    np.testing.assert_array_equal(sea.label_map, [[3, 1, 1], [1, 1, 3]])
    assert [item["category_name"] for item in sea.to_coco()] == ["sea"]
    assert sea.to_rows() == [dict(name="sea", share=4 / 6, pixels=4, label=1)]
    assert sea.summary() == "sea 66.7%"
    assert LABELS.only() is LABELS
    assert LABELS.only([]).to_coco() == []

    for result in (FOUND, LABELS, CLASSES):
        with pytest.raises(ValueError, match="The model has no class 'bird'; it has "):
            result.only(["bird"])
        with pytest.raises(ValueError, match="'sea' is one name"):
            result.only("sea")
    assert CLASSES.only(["a"]).names == ["a"]
    assert CLASSES.only(score_thr=0.5).names == ["c"]


def test_pixels_without_a_class_are_drawn_as_they_are():
    drawn = LABELS.only(["sea"]).overlay(np.full((2, 3, 3), 200, np.uint8))
    scale = drawn.shape[0] // 2
    np.testing.assert_array_equal(drawn[: scale // 2, : scale // 2], 200)
    np.testing.assert_array_equal(drawn[:5, -5:], np.broadcast_to(drawn[0, -1], (5, 5, 3)))
    np.testing.assert_allclose(drawn[0, -1], 0.45 * 200 + 0.55 * np.array([60, 50, 40]), atol=1)


@pytest.mark.parametrize("opacity", [0, 0.25, 1])
def test_opacity_is_the_share_of_the_colour(opacity):
    picture = np.full((2, 3, 3), 100, np.uint8)
    expected = (1 - opacity) * 100 + opacity * np.array([60, 50, 40])
    drawn = LABELS.overlay(picture, opacity=opacity)
    np.testing.assert_allclose(drawn[0, -1], expected, atol=1)
    width = drawn.shape[1]
    np.testing.assert_allclose(LABELS.draw(picture, opacity=opacity)[0, 2 * width + 3], expected, atol=1)
    picture = np.full((6, 8, 3), 100, np.uint8)
    middle = (160, 320)  # of the dog, at 80 times the size
    full = FOUND.draw(picture, score_thr=0, opacity=1)[middle].astype(float)
    for draw in (FOUND.draw, FOUND.overlay):
        found = draw(picture, score_thr=0, opacity=opacity)
        np.testing.assert_allclose(found[middle], (1 - opacity) * 100 + opacity * full, atol=1)
    np.testing.assert_array_equal(FOUND.overlay(picture, score_thr=0.9), FOUND.draw(picture, score_thr=0.9))
    assert (FOUND.overlay(picture, score_thr=0.9) == 100).all()


@pytest.mark.parametrize(
    ("picture", "opacity", "words"),
    [
        ("image.jpg", None, "The picture is 'image.jpg'"),
        (np.zeros((6, 8), np.uint8), None, r"uint8 of shape \(6, 8\)"),
        (np.zeros((6, 8, 3)), None, "float64"),
        (np.zeros((3, 3, 3), np.uint8), None, "3 x 3 pixels, and the image of the result 8 x 6"),
        (np.zeros((6, 8, 3), np.uint8), 2, "opacity=2 must be from 0 to 1"),
        (np.zeros((6, 8, 3), np.uint8), float("nan"), "opacity=nan"),
    ],
)
def test_what_cannot_be_drawn_on_is_said(picture, opacity, words):
    label_map = LabelMap(np.zeros((6, 8), int), ("sky",), [[0, 0, 0]])
    for draw in (FOUND.draw, label_map.draw, label_map.overlay):
        with pytest.raises(ValueError, match=words):
            draw(picture, opacity=opacity)


def test_objects_of_a_class_have_one_colour_and_the_most_certain_one_is_on_top():
    boxes = np.array([[100, 100, 300, 300], [200, 200, 400, 400]], np.float32)
    picture = np.zeros((480, 640, 3), np.uint8)
    same = Detections(boxes, np.array([0.9, 0.8]), np.array([1, 1]), ("a", "b"), (480, 640)).draw(picture)
    np.testing.assert_array_equal(same[150, 100], same[350, 399])
    assert same[150, 100].any()
    other = Detections(boxes, np.array([0.9, 0.8]), np.array([1, 0]), ("a", "b"), (480, 640)).draw(picture)
    np.testing.assert_array_equal(other[200, 299], other[150, 100])  # where the edges cross
    assert (other[350, 399] != other[150, 100]).any()
