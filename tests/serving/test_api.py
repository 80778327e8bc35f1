"""The REST interface: results, limits, hostile uploads, and that nothing of them stays."""

import io
import os
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from bright_detector import Bright
from fastapi.testclient import TestClient
from PIL import Image

from convnext_dense.inference import ClassScores, Tiles
from convnext_dense.serving.api import make_app
from convnext_dense.serving.limits import Limits, TooManyError, Turnstile


def png(shape=(30, 40), box=(5, 10, 15, 20)):
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of a server whose temporary files are in a folder of their own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return TestClient(make_app(Bright(), limits=Limits(max_bytes=2**20, max_pixels=10_000, per_second=1e6)))


def post(client, content, name="a.png", path="/predict", **query):
    return client.post(path, files={"file": (name, content)}, params=query)


def test_objects_are_given_as_in_coco_format(client):
    answer = post(client, png())
    assert answer.status_code == 200
    body = answer.json()
    assert (body["task"], body["height"], body["width"]) == ("detection", 30, 40)
    (found,) = body["results"]
    assert found["bbox"] == [5, 10, 10, 10]
    assert found["category_name"] == "light"
    assert found["segmentation"]["size"] == [30, 40]
    assert post(client, png(), score_thr=0.6).json()["results"] == []
    assert post(client, png(), tile=32).json()["results"][0]["bbox"] == [5, 10, 10, 10]
    assert client.get("/model").json() == {"task": "detection", "class_names": ["light"]}
    assert client.get("/health").json() == {"status": "ok"}


def test_picture_is_what_draw_gives(client):
    answer = post(client, png(), path="/picture")
    assert answer.headers["content-type"] == "image/png"
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    model, pixels = Bright(), cv2.imdecode(np.frombuffer(png(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(drawn, model(pixels).draw(pixels))


def test_classifier_gives_classes(tmp_path):
    class Classes(Bright):
        task = "classification"

        def _found(self, pixels):
            return ClassScores(np.array([0.75], np.float32), np.array([0]), self.class_names)

    answer = post(TestClient(make_app(Classes())), png())
    assert answer.json()["results"] == [{"name": "light", "score": 0.75, "label": 0}]


def bomb(width, height):
    """A PNG of that many pixels in a few bytes."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = (
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    return buffer.getvalue()


HOSTILE = {
    "empty": b"",
    "text": b"no image at all",
    "half": png()[:50],
    "html": b"<html><script>alert(1)</script></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "bomb": bomb(60000, 60000),
    "10,000 x 10,000": bomb(10000, 10000),
    "no pixels": bomb(0, 5),
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "noise": os.urandom(5000),
    "jpeg header": b"\xff\xd8\xff\xe0" + bytes(500),
    "gif": b"GIF89a" + bytes([255] * 30),
    "tiff": b"II*\x00" + bytes([255] * 60),
    "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(40),
    "bmp": b"BM" + bytes([255] * 60),
    "object array": pickled(),
}
NAMES = ["a.png", "../../etc/passwd", "/etc/passwd.jpg", "a.npy", "a" * 3000 + ".tif", "\u202egnp.exe", "x;rm -rf.jpg"]


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_uploads_get_a_sentence_and_leave_nothing(client, content, tmp_path):
    for name in NAMES:
        answer = post(client, content, name)
        assert answer.status_code in (400, 413), (name, answer.text)
        detail = answer.json()["detail"]
        assert str(tmp_path) not in str(detail)
        assert not list(tmp_path.iterdir())
    assert post(client, png()).status_code == 200


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (dict(score_thr=2), 422),
        (dict(score_thr="nan"), 422),
        (dict(tile=1), 422),
        (dict(tile=32, overlap=1), 422),
        (dict(tile="x"), 422),
    ],
)
def test_wrong_values_are_refused(client, query, status):
    assert post(client, png(), **query).status_code == status


def test_too_many_tiles_are_refused():
    client = TestClient(make_app(Bright()))
    answer = post(client, png((2000, 2000)), tile=32, overlap=0.9)
    assert answer.status_code == 400
    assert "more than 1000 tiles" in answer.json()["detail"]


def test_requests_without_a_file_or_that_are_none_are_refused(client):
    assert client.post("/predict").status_code == 422
    assert client.post("/predict", content=b"--x", headers={"content-type": "multipart/form-data"}).status_code == 400
    assert client.post("/predict", data={"file": "text"}).status_code == 422
    assert client.get("/predict").status_code == 405
    assert client.get("/../../etc/passwd").status_code == 404


def test_large_bodies_are_refused_whether_they_say_so_or_not(client, tmp_path):
    assert post(client, bytes(2**20)).status_code == 413  # with what is around it
    assert "more than 1 MB" in post(client, bytes(2**20)).json()["detail"]

    def stream():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(40):
            yield bytes(2**16)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/predict", content=stream(), headers=headers).status_code == 413
    assert client.post("/predict", content=b"", headers=headers | {"content-length": "-1"}).status_code == 413
    assert not list(tmp_path.iterdir())
    assert post(client, png((200, 200))).status_code == 413
    assert "more than 10,000 pixels" in post(client, png((200, 200))).json()["detail"]


def test_client_that_asks_too_often_has_to_wait():
    turnstile = Turnstile(Limits(per_second=10, max_waiting=100))
    let_in = []

    def come_in():
        with turnstile("a"):
            let_in.append(1)

    def come_in_often():
        for _ in range(100):
            come_in()

    with pytest.raises(TooManyError, match="More than 10 requests in a second"):
        come_in_often()
    assert 20 <= len(let_in) <= 25
    with turnstile("b"):
        pass
    time.sleep(0.25)
    with turnstile("a"):
        pass


def test_few_requests_wait_and_the_others_are_told(tmp_path):
    model = Bright()
    model.seconds = 0.2
    client = TestClient(make_app(model, limits=Limits(max_waiting=3, per_second=1e6)))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(client, png()), range(8)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(200) >= 3
    assert codes.count(429) >= 1
    assert set(codes) == {200, 429}
    busy = next(answer for answer in answers if answer.status_code == 429)
    assert busy.headers["retry-after"] == "1"
    assert post(client, png()).status_code == 200


def test_clients_get_their_own_results():
    client = TestClient(make_app(Bright(), limits=Limits(per_second=1e6, max_waiting=1000)))
    boxes = [(number, 2, number + 5, 9) for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda box: post(client, png(box=box)).json(), boxes * 4))
    for box, answer in zip(boxes * 4, answers, strict=True):
        assert answer["results"][0]["bbox"] == [box[0], 2, 5, 7]
    assert threading.active_count() < 100


class Recorded(Bright):
    """How a model is called."""

    def __init__(self):
        super().__init__()
        self.tiles = []

    def __call__(self, image, *, tiles=None):
        self.tiles.append(tiles)
        return super().__call__(image, tiles=tiles)


@pytest.mark.parametrize("path", ["/predict", "/picture"])
def test_tiles_and_thresholds_reach_the_model(path):
    model = Recorded()
    client = TestClient(make_app(model))
    assert post(client, png((360, 480)), path=path, tile=64, overlap=0.5, score_thr=0.6).status_code == 200
    assert model.tiles == [Tiles(64, 0.5)]
    pixels = cv2.imdecode(np.frombuffer(png((360, 480)), np.uint8), cv2.IMREAD_COLOR)
    answer = post(client, png((360, 480)), path="/picture", score_thr=0.6)
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(drawn, model(pixels).draw(pixels, score_thr=0.6))


def test_weak_objects_are_given_unless_a_score_is_asked_for():
    class Weak(Bright):
        score = 0.1

    client = TestClient(make_app(Weak()))
    assert len(post(client, png()).json()["results"]) == 1
    assert post(client, png(), score_thr=0.2).json()["results"] == []


def test_clients_are_counted_apart_and_by_the_turnstile_that_is_given():
    turnstile = Turnstile(Limits(per_second=0.5))  # one request at once
    app = make_app(Bright(), turnstile=turnstile)
    turnstile.count("a")
    assert [post(TestClient(app, client=(name, 1)), png()).status_code for name in "ab"] == [429, 200]


def test_a_video_is_told_where_to_go(client):
    answer = post(client, b"abc", "clip.mp4")
    assert answer.status_code == 400
    assert "This is for images" in answer.json()["detail"]


def test_the_description_needs_no_other_host(client):
    for place in ("/docs", "/openapi.json"):
        assert client.get(place).status_code == 200
    assert "http" not in client.get("/docs").text.replace("http-equiv", "")
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
