"""The page, in a real browser: what it shows is what the model found, and nobody's files are served."""

import contextlib
import io
import json
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import uvicorn
from bright_detector import Bright
from browsing import asked_addresses, browser, in_browser

pytest.importorskip("gradio")  # it asks for a newer huggingface_hub than the lowest that the package takes

from convnext_dense.inference import LabelMap, Tiles
from convnext_dense.inference.video import VideoWriter
from convnext_dense.serving import page as page_module
from convnext_dense.serving.api import make_app
from convnext_dense.serving.limits import Limits, Turnstile
from convnext_dense.serving.page import add_page

LIMITS = Limits(max_bytes=2**20, max_pixels=250_000, max_frames=20, per_second=1e6)


class Lights(Bright):
    """Two bright classes."""

    class_names = ("light", "lamp")


class Sky(Bright):
    """A segmenter: bright pixels are sky."""

    task, class_names, palette = "segmentation", ("ground", "sky"), [[90, 60, 30], [0, 160, 255]]

    def _found(self, pixels):
        return LabelMap((pixels[..., 0] > 128).astype(int), self.class_names, self.palette)


def scene(shift=0):
    """A dark picture with a bright square, which is large enough not to be enlarged."""
    picture = np.full((360, 480, 3), 40, np.uint8)
    picture[100:200, 100 + shift : 220 + shift] = (240, 200, 230)
    return picture


def serve(models, folder, limits=LIMITS, **options):
    """Start a server, and return it with its address."""
    turnstile = Turnstile(limits)
    app = make_app(next(iter(models.values())), limits=limits, turnstile=turnstile)
    add_page(app, models, folder, limits=limits, turnstile=turnstile, **options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    return server, thread, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a detector beside a segmenter: its address, the detector, and its folder."""
    tmp = tmp_path_factory.mktemp("page")
    examples = [tmp / f"{name}.png" for name in ("first", "broken", "example")]
    for path in examples:
        cv2.imwrite(str(path), scene(30 if path.stem == "example" else 0))
    examples[1].write_text("no image")
    model = Lights()
    folder = Path(tempfile.mkdtemp(dir=tmp))
    server, thread, address = serve({"lights": model, "sky": Sky()}, folder, examples=examples)
    yield address, model, folder
    server.should_exit = True
    thread.join()


class Page:
    """A page in a browser, as a person sees it."""

    def __init__(self, driver, address):
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.common.by import By

        self.driver, self._css, self._timeout = driver, By.CSS_SELECTOR, TimeoutException
        driver.get(address)
        self.wait(lambda: self.all("#upload input[type=file]"))

    def all(self, selector):
        return self.driver.find_elements(self._css, selector)

    def one(self, selector):
        return self.wait(lambda: self.all(selector))[0]

    def wait(self, condition, seconds=30):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]
        return WebDriverWait(self.driver, seconds, 0.1, ignored_exceptions=ignored).until(lambda _: condition())

    def upload(self, path):
        self.wait(self._is_clear)
        self.wait(lambda: self.all("#upload input[type=file]"))[0].send_keys(str(path))

    def _is_clear(self):
        for button in self.all("#upload button[aria-label='Clear']"):
            button.click()
        return self.all("#upload input[type=file]")

    def text(self, selector):
        return self.one(selector).text

    def source(self, selector):
        """The address of a picture or a video, None where there is none."""
        found = self.all(selector)
        return found[0].get_attribute("src") if found else None

    def pixels(self, number=0):
        with urllib.request.urlopen(self.source(f"#picture-{number} img")) as answer:
            return cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR)

    def shows(self, picture, number=0):
        """Wait for a picture."""
        with contextlib.suppress(self._timeout):
            self.wait(lambda: self.source(f"#picture-{number} img") and np.array_equal(self.pixels(number), picture))
        np.testing.assert_array_equal(self.pixels(number), picture)

    def type(self, selector, value):
        from selenium.webdriver.common.keys import Keys

        self.one(selector).send_keys(Keys.CONTROL, "a")
        self.one(selector).send_keys(value, Keys.TAB)


@pytest.fixture
def shown(page, tmp_path):
    """The page in a browser that keeps downloads in a folder."""
    with browser(downloads=tmp_path / "downloads") as driver:
        yield Page(driver, page[0])


@in_browser
def test_an_image_is_shown_changed_and_saved(page, shown, tmp_path):
    _, model, _ = page
    cv2.imwrite(str(tmp_path / "scene.png"), scene())
    shown.upload(tmp_path / "scene.png")
    found = Bright()(scene())
    shown.shows(found.draw(scene()))
    shown.shows(Sky()(scene()).draw(scene(), opacity=0.3), 1)
    shown.wait(lambda: shown.text("#text-0").split() == ["lights", "1", "object", "(light)"])
    assert shown.text("#text-1").startswith("sky")
    assert "light" in shown.text("#rows-0")

    runs = model.runs
    shown.type("#opacity input[type=number]", "0.8")
    shown.shows(found.draw(scene(), opacity=0.8))
    choose = lambda name: next(one for one in shown.all("[role=option]") if one.text == name).click()  # noqa: E731
    shown.one("#classes input").click()
    assert [one.text for one in shown.wait(lambda: shown.all("[role=option]"))] == ["light", "ground", "sky"]
    choose("ground")
    shown.shows(scene())
    shown.shows(Sky()(scene()).only(["ground"]).draw(scene(), opacity=0.8), 1)
    choose("light")
    shown.shows(found.draw(scene(), opacity=0.8))
    shown.type("#score input[type=number]", "0.6")  # the object has 0.5
    shown.shows(scene())
    assert "0 objects" in shown.text("#text-0")
    assert model.runs == runs

    shown.type("#score input[type=number]", "0.4")
    shown.wait(lambda: "1 object" in shown.text("#text-0"))
    for kind in ("file", "coco", "table"):
        shown.one(f"#{kind}-0").click()
    files = tmp_path / "downloads"
    names = {f"scene_lights.{ending}" for ending in ("png", "json", "csv")}
    shown.wait(lambda: {path.name for path in files.glob("*")} == names)
    saved = json.loads((files / "scene_lights.json").read_text())
    assert [one["bbox"] for one in saved] == [[100, 100, 120, 100]]
    np.testing.assert_array_equal(cv2.imread(str(files / "scene_lights.png")), shown.pixels())
    asked = {urllib.parse.urlsplit(url).netloc for url in asked_addresses(shown.driver)}
    assert asked == {urllib.parse.urlsplit(page[0]).netloc}


@in_browser
def test_other_ways_in_and_what_is_refused(page, shown, tmp_path):
    _, model, _ = page
    shown.one("#in-tiles").click()
    shown.wait(lambda: "first" in shown.text("#status"))
    shown.all("#examples button.thumbnail-item")[1].click()
    shown.shows(Bright()(scene(30)).draw(scene(30)))
    runs, first = model.runs, shown.source("#picture-0 img")
    shown.type("#tile input", "256")
    shown.one("#in-tiles").click()
    shown.wait(lambda: shown.source("#picture-0 img") not in (None, first))
    assert model.runs - runs == Tiles(256).count(360, 480)
    shown.shows(model(scene(30), tiles=Tiles(256)).draw(scene(30)))

    (tmp_path / "text.jpg").write_text("no image")
    shown.type("#tile input", "5")
    shown.one("#in-tiles").click()
    shown.wait(lambda: "32 pixels or more" in shown.text("#status"))
    shown.shows(model(scene(30), tiles=Tiles(256)).draw(scene(30)))  # what was there stays
    shown.upload(tmp_path / "text.jpg")
    shown.wait(lambda: "Image text.jpg cannot be decoded" in shown.text("#status"))
    shown.wait(lambda: shown.source("#picture-0 img") is None)
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((600, 600, 3), np.uint8))
    shown.upload(tmp_path / "large.png")
    shown.wait(lambda: "more than 250,000 pixels" in shown.text("#status"))


@in_browser
def test_a_video_is_shown(page, shown, tmp_path):
    _, model, _ = page
    for name, number in (("short", 6), ("long", 25)):
        with VideoWriter(tmp_path / f"{name}.mp4", 5) as writer:
            for frame in range(number):
                writer.add(scene(10 * frame))
    runs = model.runs
    shown.upload(tmp_path / "short.mp4")
    shown.wait(lambda: shown.source("#video-0 video"))
    assert model.runs - runs == 6
    assert "6 frames, in the last one 1 object (light)" in shown.text("#text-0")
    for number, size in ((0, [480, 360]), (1, [480, 360])):
        video = shown.one(f"#video-{number} video")
        shown.wait(lambda: shown.driver.execute_script("return arguments[0].readyState", video) >= 2)  # noqa: B023
        facts = shown.driver.execute_script(
            "let v = arguments[0]; return [v.videoWidth, v.videoHeight, v.duration]", video
        )
        assert facts[:2] == size
        assert facts[2] == pytest.approx(6 / 5, abs=0.1)
    shown.upload(tmp_path / "long.mp4")
    shown.wait(lambda: "more than 20 frames" in shown.text("#status"))


@in_browser
def test_what_happens_while_the_model_runs_counts(page, shown, tmp_path):
    _, model, _ = page
    for name, shift in (("one", 0), ("two", 60)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), scene(shift))
    try:
        model.seconds = 3
        shown.upload(tmp_path / "one.png")
        time.sleep(1)
        shown.upload(tmp_path / "two.png")
        shown.type("#opacity input[type=number]", "0.9")
        shown.shows(Bright()(scene(60)).draw(scene(60), opacity=0.9))
    finally:
        model.seconds = 0
    shown.all("#upload button[aria-label='Clear']")[0].click()
    shown.wait(lambda: shown.source("#picture-0 img") is None and "Drop an image" in shown.text("#status"))


def call(address, function, data):
    """Call a function of the page as nobody's browser does, and return all that it answers."""
    session = f"s{time.time()}"
    body = json.dumps(dict(fn_index=function, session_hash=session, data=data, event_data=dict(index=0))).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/gradio_api/queue/join", body, headers), timeout=10).read()
    answer = []
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash={session}", timeout=20) as lines:
        for line in lines:
            answer.append(line.decode())
            if "process_completed" in answer[-1]:
                break
    return "".join(answer)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/dev/zero", "{example}", "http://127.0.0.1:1/a.png", "https://example.com/a.png"]
)
def test_a_path_that_was_not_uploaded_is_not_read(page, path):
    address, model, folder = page
    path = path.format(example=folder.parent / "example.png")
    runs = model.runs
    before = {file for file in folder.rglob("*") if file.is_file()}
    answer = call(address, 0, [None, {"path": path, "meta": {"_type": "gradio.FileData"}}])
    assert '"success":false' in answer.replace(" ", "")
    assert model.runs == runs
    assert {file for file in folder.rglob("*") if file.is_file()} == before
    assert status(address, "/health") == 200


def test_the_page_keeps_what_it_says(tmp_path):
    page = page_module._Page({"a": Bright()}, tmp_path, LIMITS, Turnstile(LIMITS), [])
    assert page.blocks.delete_cache == (60, 3600)
    assert page._view.time_to_live == 3600
    assert page.blocks.state_session_capacity == 100
    assert page.blocks._queue.max_size == LIMITS.max_waiting
    assert page_module._short("score", 0.123456) == 0.123
    assert page_module._short("x1", 12.3456) == 12.3


def test_models_wait_for_the_turnstile_and_the_disk_has_room(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), scene())
    limits = Limits(per_second=0.5, max_kept=10**9)
    turnstile = Turnstile(limits)
    page = page_module._Page({"a": Bright()}, tmp_path, limits, turnstile, [])
    request = type("Request", (), {"client": type("Client", (), {"host": "a"})})
    turnstile.count("a")
    assert "requests in a second" in page._look(None, tmp_path / "a.png", None, request, None)[1]
    page = page_module._Page({"a": Bright()}, tmp_path, Limits(max_kept=10), Turnstile(LIMITS), [])
    assert "no room" in page._look(None, tmp_path / "a.png", None, request, None)[1]


def test_small_pictures_of_examples_have_their_colours_and_broken_ones_are_left_out(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((300, 400, 3), (0, 0, 255), np.uint8))
    (tmp_path / "broken.png").write_text("no image")
    paths, pictures = page_module._readable(Bright(), [tmp_path / "broken.png", tmp_path / "red.png"])
    assert paths == [tmp_path / "red.png"]
    assert pictures[0].shape == (144, 192, 3)
    assert pictures[0][0, 0].tolist() == [255, 0, 0]


def post_file(address, name, content):
    body = io.BytesIO()
    body.write(f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode())
    body.write(content + b"\r\n--x--\r\n")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{address}/gradio_api/upload", body.getvalue(), headers)
    return json.load(urllib.request.urlopen(request))


def status(address, path):
    try:
        return urllib.request.urlopen(address + path).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "{folder}/../example.png", "{folder}/../../../etc/passwd", "{folder}", "http://127.0.0.1:1/a.png"],
)
@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/gradio_api/proxy=", "/file=", "/gradio_api/file%3D"])
def test_files_of_others_are_not_served(page, name, prefix):
    address, _, folder = page
    name = name.format(folder=folder)
    assert status(address, prefix + urllib.parse.quote(name, safe="")) == 404
    assert status(address, prefix + name) == 404


def test_uploads_are_served_under_harmless_names_in_the_folder(page):
    address, _, folder = page
    (path,) = post_file(address, "../../a b.png", b"abc")
    assert Path(path).resolve().is_relative_to(folder)
    assert status(address, "/gradio_api/file=" + urllib.parse.quote(path)) == 200
    assert status(address, "/health") == 200
    assert status(address, "/docs") == 200
    assert status(address, "/predict") == 405  # it takes POST


@pytest.mark.parametrize(
    ("limits", "sizes", "status", "words"),
    [
        (Limits(max_bytes=2000), [1500, 3000], 413, "The request has more than"),
        (Limits(max_kept=1000), [900, 200, 10], 429, "no room for more"),
        (Limits(per_second=1.0), [1, 2, 3], 429, "More than 1 requests in a second"),
    ],
)
def test_uploads_beyond_the_limits_are_refused(tmp_path, limits, sizes, status, words):
    server, thread, address = serve({"lights": Bright()}, tmp_path, limits)
    try:
        for size in sizes[:-1]:
            post_file(address, "a.png", bytes(size))
        with pytest.raises(urllib.error.HTTPError) as refused:
            post_file(address, "b.png", bytes(sizes[-1]))
        assert refused.value.code == status
        assert words in refused.value.read().decode()
    finally:
        server.should_exit = True
        thread.join()


def test_uploads_are_deleted_when_the_server_ends(tmp_path):
    server, thread, address = serve({"lights": Bright()}, tmp_path)
    (path,) = post_file(address, "a.png", b"abc")
    assert Path(path).is_file()
    server.should_exit = True
    thread.join()
    assert not Path(path).is_file()
