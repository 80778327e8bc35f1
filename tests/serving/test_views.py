"""What the page shows of an upload, as files, a table and a text."""

import csv
import json

import cv2
import numpy as np
import pytest
from bright_detector import Bright

from convnext_dense.errors import UserError
from convnext_dense.inference import ClassScores, Tiles
from convnext_dense.inference.video import Video, VideoWriter
from convnext_dense.serving.limits import Limits, TooLargeError
from convnext_dense.serving.views import MAX_ROWS, look, show


class Guess(Bright):
    """A classifier that says the same of every image."""

    task, class_names = "classification", ("day", "night")

    def _found(self, pixels):
        return ClassScores(np.array([0.8, 0.2], np.float32), np.array([1, 0]), self.class_names)


def scene(left):
    picture = np.full((360, 640, 3), 40, np.uint8)
    picture[100:200, left : left + 100] = 220
    return picture


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "scene.png"
    cv2.imwrite(str(path), scene(100))
    return path


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "scene.mp4"
    with VideoWriter(path, 10) as writer:
        for frame in range(4):
            writer.add(scene(100 + 20 * frame))
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_image_is_shown_as_drawn_and_as_files(image, tmp_path):
    model = Bright()
    view = look([model, Guess()], image, tmp_path, Limits())
    assert (view.is_video, list(view.classes)) == (False, ["light", "day", "night"])
    shown = show(view, 0, model, score_thr=0.5)
    np.testing.assert_array_equal(cv2.imread(str(shown.picture)), model(scene(100)).draw(scene(100)))
    assert shown.text == "1 object (light)"
    assert shown.picture.is_relative_to(tmp_path)
    (item,) = json.loads(shown.coco.read_text())
    assert (item["image_id"], item["bbox"]) == ("scene.png", [100, 100, 100, 100])
    (row,) = rows(shown.table)
    assert (row["image"], row["x1"], row["name"]) == ("scene.png", "100", "light")
    assert shown.rows[0]["x2"] == 200
    shown = show(view, 0, model, score_thr=0.51)
    assert (shown.text, json.loads(shown.coco.read_text()), shown.rows) == ("0 objects", [], [])
    np.testing.assert_array_equal(cv2.imread(str(shown.picture)), scene(100))
    assert show(view, 0, model, classes=["day"]).text == "0 objects"
    names = [path.name for path in show(view, 0, model, title="a/b c")[:3]]
    assert names == ["scene_a_b_c.png", "scene_a_b_c.json", "scene_a_b_c.csv"]


def test_classes_of_an_image_have_no_threshold(image, tmp_path):
    model = Guess()
    shown = show(look([model], image, tmp_path, Limits()), 0, model, score_thr=0.9)
    assert [row["name"] for row in shown.rows] == ["night", "day"]
    assert shown.coco is None
    assert shown.text == "night 80.0%, day 20.0%"


def test_a_video_is_shown_frame_by_frame(video, tmp_path):
    model = Bright()
    told = []
    view = look([model], video, tmp_path, Limits(), progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 4) for number in range(4)]
    shown = show(view, 0, model)
    frames = list(Video(shown.picture))
    assert [frame.shape for frame in frames] == [(360, 640, 3)] * 4
    for frame, left in zip(frames, range(100, 180, 20), strict=True):
        drawn = model(scene(left)).overlay(scene(left))
        assert np.abs(frame.astype(int) - drawn).mean() < 2  # of 255, what H.264 loses twice
    assert shown.text == "4 frames, in the last one 1 object (light)"
    opaque = show(view, 0, model, opacity=1)
    drawn = model(scene(100)).overlay(scene(100), opacity=1)
    assert np.abs(next(iter(Video(opaque.picture))).astype(int) - drawn).mean() < 2
    assert [row["frame"] for row in shown.rows] == [1, 2, 3, 4]
    boxes = [float(row["x1"]) for row in rows(shown.table)]
    np.testing.assert_allclose(boxes, [100, 120, 140, 160], atol=1)


def test_long_tables_are_cut_on_the_page_alone(video, tmp_path, monkeypatch):
    monkeypatch.setattr("convnext_dense.serving.views.MAX_ROWS", 3)
    assert MAX_ROWS > 3
    model = Bright()
    shown = show(look([model], video, tmp_path, Limits()), 0, model)
    assert len(shown.rows) == 3
    assert len(rows(shown.table)) == 4


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (dict(max_frames=3), "more than 3 frames"),
        (dict(max_pixels=640 * 360 - 1), "The video has more than 230,399 pixels"),
    ],
)
def test_too_large_videos_are_refused(video, tmp_path, limits, words):
    model = Bright()
    with pytest.raises(TooLargeError, match=words):
        look([model], video, tmp_path, Limits(**limits))
    assert model.runs == 0
    look([model], video, tmp_path, Limits(max_frames=4, max_pixels=640 * 360))


def test_a_video_whose_header_lies_is_refused_at_the_limit(video, tmp_path, monkeypatch):
    class Liar(Video):
        def __init__(self, place):
            super().__init__(place)
            self.num_frames = None

    monkeypatch.setattr("convnext_dense.serving.views.Video", Liar)
    model = Bright()
    with pytest.raises(TooLargeError, match="more than 2 frames"):
        look([model], video, tmp_path, Limits(max_frames=2))


def test_too_large_images_and_too_many_tiles_are_refused(image, tmp_path):
    with pytest.raises(TooLargeError, match="The image has more than 230,399 pixels"):
        look([Bright()], image, tmp_path, Limits(max_pixels=640 * 360 - 1))
    with pytest.raises(UserError, match="more than 1000 tiles"):
        look([Bright()], image, tmp_path, Limits(), tiles=Tiles(10, overlap=0.5))


def test_classifiers_see_whole_images_where_detectors_see_tiles(image, tmp_path):
    view = look([Bright(), Guess()], image, tmp_path, Limits(), tiles=Tiles(200))
    assert [len(found) for found in view.found] == [1, 1]
    (found,) = view.results(0)
    assert found.boxes.tolist() == [[100, 100, 200, 200]]


def test_an_upload_that_is_gone_is_said(image, tmp_path):
    model = Bright()
    view = look([model], image, tmp_path, Limits())
    image.unlink()
    with pytest.raises(UserError, match="drop it again"):
        show(view, 0, model)


def test_tiles_of_a_video_count_together(video, tmp_path):
    with pytest.raises(UserError, match="The video would be cut into more than 5 tiles"):
        look([Bright()], video, tmp_path, Limits(max_frames=20), tiles=Tiles(200))  # 5 of each of 4 frames
    model = Bright()
    view = look([model], video, tmp_path, Limits(max_frames=60), tiles=Tiles(200))
    assert len(list(view.results(0))) == 4
    assert model.runs == 4 * Tiles(200).count(360, 640)


def test_showing_often_does_not_fill_the_disk(image, tmp_path):
    model = Bright()
    view = look([model], image, tmp_path, Limits())
    pictures = [show(view, 0, model, opacity=number / 10).picture for number in range(10)]
    assert [path.is_file() for path in pictures] == [False] * 8 + [True] * 2
    view.remove()
    assert not view.folder.exists()
