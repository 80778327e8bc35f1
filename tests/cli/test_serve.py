"""tools/serve.py: its arguments, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from bright_detector import Bright

pytest.importorskip("gradio")

from convnext_dense.cli import server
from convnext_dense.serving import page

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_arguments_reach_the_models_and_the_limits(monkeypatch, tmp_path, run_tool):
    import uvicorn

    loaded, seen = [], {}

    def load(*names, options, device):
        loaded.append((names, options, device))
        return Bright()

    def add(app, models, folder, **given):
        seen.update(given, models=models)

    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(server, "load_model", load)
    monkeypatch.setattr(page, "add_page", add)
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: seen.update(address=sockets[0].getsockname()))
    port = free_port()
    code, out, err = run_tool(
        *("serve.py", "c.py", "a.pth", "--beside", "b.pth", "--beside", "d.py", "e.pth", "--examples", tmp_path),
        *("--max-mb", 2, "--max-pixels", 99, "--rate", 7, "--host", "0.0.0.0", "--port", port, "--device", "cpu"),
        *("--cfg-options", "x=1"),
    )
    assert code == 0, err
    assert loaded == [
        (("c.py", "a.pth"), {"x": 1}, "cpu"),
        (("c.py", "b.pth"), {"x": 1}, "cpu"),
        (("d.py", "e.pth"), {"x": 1}, "cpu"),
    ]
    assert list(seen["models"]) == ["a", "b", "e"]
    limits = seen["limits"]
    assert (limits.max_bytes, limits.max_pixels, limits.per_second) == (2 * 2**20, 99, 7)
    assert len(seen["examples"]) == 8
    assert seen["address"] == ("0.0.0.0", port)
    assert "there is no password" in out


@pytest.mark.parametrize(
    ("named", "names"),
    [
        ([["c.py", "a.pth"]], ["c"]),
        ([["c.py", "a.pth"], ["d.py", "a.pth"]], ["c", "d"]),
        ([["c.py", "a.pth"], ["c.py", "b.pth"]], ["a", "b"]),
        ([["c.py", "a.pth"], ["c.py", "b.pth"], ["d.py", "a.pth"]], ["c.py, a.pth", "c.py, b.pth", "d.py, a.pth"]),
        ([["c.py", "a.pth"], ["c.py", "a.pth"]], ["c.py, a.pth (1)", "c.py, a.pth (2)"]),
    ],
)
def test_models_have_short_names_that_tell_them_apart(named, names):
    assert server._short(named) == names


def test_a_port_in_use_is_said_before_a_model_is_loaded(run_tool):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run_tool("serve.py", "no.py", "no.pth", "--port", port)
    assert code == 1
    assert f"127.0.0.1:{port} cannot be listened on" in err
    assert "choose another --port" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["c.py", "a.pth", "--beside", "a", "b", "c"], "names 3 things"),
        (["c.py", "a.pth", "--rate", "0"], "must be above 0"),
        (["c.py", "a.pth", "--port", "99999"], "must be from 0 to 65535"),
    ],
)
def test_wrong_arguments_get_a_sentence(run_tool, arguments, words):
    code, _, err = run_tool("serve.py", *arguments)
    assert code == 1
    assert words in err


SERVER = """
import sys
sys.path[:0] = {paths!r}
from bright_detector import Bright
from convnext_dense.cli import main, server
model = Bright()
model.seconds = 0.3
server.load_model = lambda *names, **options: model
main.run("serve", ["c.py", "a.pth", "--port", "{port}"])
"""


@pytest.mark.slow
def test_a_signal_ends_it_with_pages_open_and_nothing_stays(tmp_path):
    port = free_port()
    code = SERVER.format(paths=[str(ROOT), str(ROOT / "tests")], port=port)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in server.stdout:
            if "The page is on" in line:
                break
        address = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{address}/health").read()
                break
            except OSError:
                time.sleep(0.1)
        page_open = urllib.request.urlopen(f"{address}/gradio_api/heartbeat/abc")  # as long as a page is open
        folders = list(tmp_path.glob("convnext_dense_*"))
        assert len(folders) == 1
        (folders[0] / "upload.png").write_bytes(b"abc")
        start = time.monotonic()
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=60)
        assert time.monotonic() - start < 20
        page_open.close()
        assert "Traceback" not in output
        assert not list(tmp_path.glob("convnext_dense_*"))
    finally:
        server.kill()
