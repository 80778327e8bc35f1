"""Many images and videos: what is written, what a broken one costs, and tracks."""

import csv
import itertools
import json
import tempfile

import cv2
import numpy as np
import pytest
from bright_detector import Bright
from file_server import serving
from PIL import Image
from random_models import NOISE

from convnext_dense.inference import Detections, Tiles, draw_result, load_model
from convnext_dense.inference.running import Run
from convnext_dense.inference.sources import find_sources
from convnext_dense.inference.tracking import Tracker
from convnext_dense.inference.video import Video, VideoWriter


def write_video(path, frames, rate=10):
    with VideoWriter(path, rate) as writer:
        for frame in frames:
            writer.add(frame)
    return path


def moving_square(number, *, side=16, shape=(64, 96)):
    for place in range(number):
        frame = np.zeros((*shape, 3), np.uint8)
        frame[20 : 20 + side, 2 * place : 2 * place + side] = 255
        yield frame


@pytest.mark.parametrize("colour", [(0, 0, 0), (40, 40, 40), (128, 128, 128), (255, 255, 255), (200, 30, 90)])
def test_a_video_keeps_its_colours(tmp_path, colour):
    frames = Video(write_video(tmp_path / "a.mp4", [np.full((64, 96, 3), colour, np.uint8)] * 3))
    for frame in frames:
        np.testing.assert_allclose(frame.reshape(-1, 3).mean(axis=0), colour, atol=2)


def test_folder_is_mirrored_and_a_broken_image_costs_nothing_else(detector, tmp_path, infer):
    for name in ("in/a.png", "in/deep/a.png", "in/deep/er/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(NOISE[..., :3]).save(tmp_path / name)
    (tmp_path / "in/deep/broken.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:99])
    (tmp_path / "in/deep/empty.jpg").write_bytes(b"")
    out = tmp_path / "out"
    code, printed = infer(*detector, tmp_path / "in", "--recursive", "--out-dir", out, "--batch-size", 2)
    assert code == 1
    assert "Error: 2 of 5 could not be read, all others are done:" in printed
    assert printed.count("broken.png cannot be decoded") == 2  # where it comes, and at the end
    assert printed.count("empty.jpg is empty") == 2
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == [
        *("a.png", "deep/a.png", "deep/er/b.png")
    ]
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    objects = json.loads((out / "predictions.json").read_text())
    assert [row["image"] for row in rows] == [item["image_id"] for item in objects]
    assert {row["image"] for row in rows} == {"a.png", "deep/a.png", "deep/er/b.png"}
    for row, item in zip(rows, objects, strict=True):
        x, y, width, height = item["bbox"]
        given = [float(row[key]) for key in ("x1", "y1", "x2", "y2", "score")]
        np.testing.assert_allclose(given, [x, y, x + width, y + height, item["score"]], rtol=1e-4, atol=1e-4)
        assert row["name"] == item["category_name"]
        assert item["segmentation"]["size"] == [40, 60]


def test_segmenter_writes_shares_of_classes(segmenter, tmp_path, infer):
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "a.png")
    code, printed = infer(*segmenter, tmp_path / "a.png", "--out-dir", tmp_path / "out")
    assert code == 0, printed
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["pixels"]) for row in rows) == 40 * 60
    objects = json.loads((tmp_path / "out/predictions.json").read_text())
    assert {item["category_name"] for item in objects} == {row["name"] for row in rows}
    code, printed = infer(*segmenter, tmp_path / "a.png", "--tile", 32, "--out-dir", tmp_path / "tiles")
    assert code == 1
    assert "Tiles are for detectors" in printed


def test_detector_in_tiles_finds_in_a_small_picture_what_it_finds_without(detector, tmp_path):
    model = load_model(*detector, device="cpu")
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "a.png")
    whole, tiled = (model.predict([tmp_path / "a.png"], tiles=tiles)[0] for tiles in (None, Tiles(64)))
    assert whole.to_coco() == tiled.to_coco()
    cut = model(tmp_path / "a.png", tiles=Tiles(32, 0.5))
    assert cut.shape == (40, 60)
    assert len(cut.scores)
    assert cut.masks.shape[1:] == (40, 60)


def test_video_is_written_with_what_was_found_and_tracked(tmp_path):
    pytest.importorskip("trackers")
    write_video(tmp_path / "in.mp4", moving_square(30))
    run = Run(Bright(), find_sources([tmp_path / "in.mp4"]), tmp_path / "out", is_tracked=True, batch_size=4)
    done = list(run)
    assert [one.frame for one in done] == list(range(1, 31))
    assert {one.file for one in done} == {tmp_path / "out/in.mp4"}
    frames = list(Video(tmp_path / "out/in.mp4"))
    assert len(frames) == 30
    assert frames[0].shape == (448, 672, 3)  # seven times larger, to make room for names
    assert Video(tmp_path / "out/in.mp4").rate == 10
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == list(range(1, 31))
    assert [row["id"] for row in rows] == ["0"] + ["1"] * 29  # a track has two frames or more
    expected = [2 * (int(row["frame"]) - 1) for row in rows]
    np.testing.assert_allclose([float(row["x1"]) for row in rows], expected, atol=2)
    objects = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [item["frame"] for item in objects] == list(range(1, 31))
    assert [item.get("track_id") for item in objects] == [None] + [1] * 29


def test_interrupted_run_leaves_whole_files(tmp_path):
    write_video(tmp_path / "in.mp4", moving_square(30))
    run = iter(Run(Bright(), find_sources([tmp_path / "in.mp4"]), tmp_path / "out"))

    def interrupted():
        for number, _ in enumerate(run):
            if number == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    run.close()
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 10
    assert len(list(Video(tmp_path / "out/in.mp4"))) == 10
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"in.mp4", "predictions.csv", "predictions.json"}


def test_broken_video_is_named_and_the_next_is_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    write_video(tmp_path / "b.mp4", moving_square(3))
    done = list(Run(Bright(), find_sources([tmp_path]), tmp_path / "out"))
    assert "a.mp4 cannot be decoded" in str(done[0].error)
    assert [one.error for one in done[1:]] == [None] * 3
    with pytest.raises(ValueError, match=r"Video .*gone\.mp4 does not exist"):
        Video(tmp_path / "gone.mp4")


def test_two_objects_that_pass_each_other_keep_their_numbers():
    pytest.importorskip("trackers")
    tracker = Tracker(25)
    seen = []
    for place in range(0, 200, 4):
        boxes = np.array([[place, 0, place + 20, 20], [200 - place, 30, 220 - place, 50]], np.float32)
        found = Detections(boxes, np.full(2, 0.9, np.float32), np.zeros(2, int), ("a",), (60, 240))
        tracked = tracker.update(found.take([1, 0] if place % 8 else [0, 1]))
        seen.append({int(number): box[1] for number, box in zip(tracked.ids, tracked.boxes, strict=True)})
    assert len(seen[-1]) == 2
    assert all(frame == seen[-1] for frame in seen[2:])


def test_what_does_not_fit_is_refused_before_anything_is_written(segmenter, tmp_path):
    class Segmenter(Bright):
        task = "segmentation"

    write_video(tmp_path / "in.mp4", moving_square(2))
    found = find_sources([tmp_path / "in.mp4"])
    with pytest.raises(ValueError, match="--track is for detectors"):
        Run(Segmenter(), found, tmp_path / "out", is_tracked=True)
    with pytest.raises(ValueError, match="--out is for images"):
        Run(Bright(), found, tmp_path / "out", out="a.json")
    assert not (tmp_path / "out").exists()


def test_a_video_never_replaces_the_one_that_it_is_made_of(tmp_path):
    write_video(tmp_path / "in.mp4", moving_square(2))
    with pytest.raises(ValueError, match=r"would overwrite the image .*in\.mp4: choose another --out-dir"):
        Run(Bright(), find_sources([tmp_path / "in.mp4"]), tmp_path)


def test_downloads_of_one_name_are_told_apart_in_a_batch(tmp_path):
    pictures = []
    for value in (255, 0):
        pixels = np.zeros((64, 640, 3), np.uint8)
        pixels[:32] = value
        pictures.append(cv2.imencode(".png", pixels)[1].tobytes())
    with serving(pictures[0]) as one, serving(pictures[1]) as other:
        places = [server.address("a.png") for server in (one, other)]
        done = list(Run(Bright(), find_sources(places), tmp_path / "out", batch_size=2))
    assert [item.text for item in done] == ["1 object (light)", "0 objects"]
    drawn = [cv2.imread(str(item.file)) for item in done]
    assert drawn[0][:30].mean() > 100
    assert not drawn[1].any()


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_downloads_are_named_by_their_addresses_and_removed_at_once(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    whole = tmp_path / name
    if name == "a.mp4":
        write_video(whole, moving_square(2))
    else:
        cv2.imwrite(str(whole), np.zeros((64, 640, 3), np.uint8))
    with serving(b"nothing that can be decoded") as broken, serving(whole.read_bytes()) as good:
        run = Run(Bright(), find_sources([broken.address(name), good.address(name)]), tmp_path / "out")
        done = []
        for item in run:
            done.append(item)
            if item.frame in (None, 2):
                last = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]
                assert len(last) <= (item.frame is not None)  # a video is removed after its last frame
    assert broken.address(name) in str(done[0].error)
    assert str(tmp_path) not in str(done[0].error)
    assert done[-1].error is None


def test_many_images_are_not_held_in_memory(tmp_path):
    """The generator of images is asked for one batch at a time."""
    asked = itertools.count()
    model = Bright()
    results = model.stream((np.zeros((4, 4, 3), np.uint8) for _ in iter(lambda: next(asked), 1000)), batch_size=2)
    next(results)
    assert next(asked) <= 3


def test_threads_do_not_mix_results(detector):
    from concurrent.futures import ThreadPoolExecutor

    model = load_model(*detector, device="cpu")
    images = [np.roll(NOISE[..., :3], shift, axis=1) for shift in range(6)]
    expected = model.predict(images)
    with ThreadPoolExecutor(3) as pool:
        for one, other in zip(expected, pool.map(model, images), strict=True):
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.masks, other.masks)


def test_result_draws_what_draw_result_writes(detector, tmp_path):
    model = load_model(*detector, device="cpu")
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "a.png")
    found = model(tmp_path / "a.png")
    draw_result(tmp_path / "a.png", found.to_dict(), tmp_path / "drawn.png", score_thr=0.0)
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / "drawn.png")), found.draw(model.picture(tmp_path / "a.png"), score_thr=0.0)
    )


def test_image_that_is_shrunk_to_a_fraction_is_said_once_with_the_way_to_tiles(detector, capsys):
    model = load_model(*detector, device="cpu", options={"test_dataloader.dataset.pipeline.1.scale": (64, 64)})
    large = np.zeros((400, 300, 3), np.uint8)
    model.predict([large[:200]], tiles=Tiles(200))
    assert "shrinks" not in capsys.readouterr().out
    model.predict([large, large])
    printed = capsys.readouterr().out
    assert printed.count("shrinks an image of 300 x 400 pixels to 48 x 64, where objects of less than 50 pixels") == 1
    assert "--tile 64, or tiles=Tiles(64)" in printed


def test_pictures_and_videos_have_no_object_below_the_score(tmp_path):
    frame = np.zeros((320, 640, 3), np.uint8)
    frame[100:200, 100:200] = 255
    cv2.imwrite(str(tmp_path / "a.png"), frame)
    write_video(tmp_path / "b.mp4", [frame] * 2)
    sources = find_sources([tmp_path / "a.png", tmp_path / "b.mp4"])
    assert [done.error for done in Run(Bright(), sources, tmp_path / "out", score_thr=0.6)] == [None] * 3
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out/a.png")), frame)
    assert np.abs(next(iter(Video(tmp_path / "out/b.mp4"))).astype(int) - frame).mean() < 1


def test_weak_objects_are_tracked_if_they_are_asked_for(tmp_path):
    pytest.importorskip("trackers")

    class Weak(Bright):
        score = 0.2

    write_video(tmp_path / "in.mp4", moving_square(4))
    for score, number in ((0.1, 4), (0.3, 0)):
        list(Run(Weak(), find_sources([tmp_path / "in.mp4"]), tmp_path / "out", score_thr=score, is_tracked=True))
        with (tmp_path / "out/predictions.csv").open() as file:
            assert len(list(csv.DictReader(file))) == number


def test_tiles_run_in_batches(tmp_path):
    sizes = []

    class Counted(Bright):
        def _run(self, prepared):
            sizes.append(len(prepared))
            return super()._run(prepared)

    Counted().predict([np.zeros((100, 100, 3), np.uint8)], batch_size=4, tiles=Tiles(40, 0.0))
    assert max(sizes) == 4
    assert sum(sizes) == 9


def test_a_refused_run_leaves_the_results_of_before(tmp_path):
    class Segmenter(Bright):
        task = "segmentation"

    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 255, np.uint8))
    sources = find_sources([tmp_path / "a.png"])
    list(Run(Bright(), sources, tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ValueError, match="Tiles are for detectors"):
        Run(Segmenter(), sources, tmp_path / "out", tiles=Tiles(32))

    class Broken(Bright):
        def _run(self, prepared):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        list(Run(Broken(), sources, tmp_path / "out"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_frames_of_odd_or_other_sizes_are_fitted(tmp_path):
    frames = [np.full((height, width, 3), 200, np.uint8) for height, width in ((65, 97), (80, 100), (50, 90))]
    shapes = [frame.shape for frame in Video(write_video(tmp_path / "a.mp4", frames))]
    assert shapes == [(64, 96, 3)] * 3


@pytest.mark.parametrize("rate", [0, float("nan"), -1, 1e6])
def test_a_camera_that_does_not_say_its_rate_has_a_usual_one(tmp_path, monkeypatch, rate):
    path = write_video(tmp_path / "a.mp4", moving_square(2))
    real = cv2.VideoCapture

    class Silent:
        def __init__(self, place):
            self._real = real(place)

        def get(self, what):
            return rate if what == cv2.CAP_PROP_FPS else self._real.get(what)

        def __getattr__(self, name):
            return getattr(self._real, name)

    monkeypatch.setattr(cv2, "VideoCapture", Silent)
    assert Video(path).rate == 25


def test_a_missing_file_costs_nothing_else(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 255, np.uint8))
    names = [tmp_path / "gone.png", tmp_path / "gone.mp4", tmp_path / "a.png"]
    image, video, last = Run(Bright(), find_sources(names), tmp_path / "out")
    assert "gone.png" in str(image.error)
    assert "gone.mp4 does not exist" in str(video.error)
    assert last.error is None
