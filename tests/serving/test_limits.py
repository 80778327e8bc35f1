"""What is let in, and from where files are served."""

import asyncio
import time

import pytest

from convnext_dense.serving import limits
from convnext_dense.serving.limits import BodyLimit, Limits, PageGuard, TooManyError, Turnstile


def answer_of(parts, *, length=None, most=1000):
    """The status that a body in parts gets from an application that reads all of it."""
    waiting, sent = list(parts), []

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def receive():
        return {"type": "http.request", "body": bytes(waiting.pop(0)), "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    asyncio.run(BodyLimit(app, most)({"type": "http", "headers": headers}, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("parts", "length", "status"),
    [([600, 600], None, 413), ([400, 600], None, 200), ([1000], 1000, 200), ([1], 1001, 413), ([1], "x", 413)],
)
def test_bodies_are_counted_in_all_their_parts(parts, length, status):
    assert answer_of(parts, length=length) == status


def test_failed_requests_do_not_wait_for_ever():
    turnstile = Turnstile(Limits(max_waiting=1, per_second=1e6))
    for _ in range(3):
        with pytest.raises(KeyError), turnstile("a"):
            raise KeyError
    with turnstile("a"), pytest.raises(TooManyError), turnstile("b"):
        pass


def test_an_idle_client_does_not_save_up(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    turnstile = Turnstile(Limits(per_second=10))
    turnstile.count("a")
    now[0] += 1000
    for _ in range(20):
        turnstile.count("a")
    with pytest.raises(TooManyError):
        turnstile.count("a")


def test_the_client_that_was_silent_longest_is_forgotten(monkeypatch):
    monkeypatch.setattr(limits, "_CLIENTS", 3)
    turnstile = Turnstile(Limits(per_second=0.5))
    for client in "abcd":
        turnstile.count(client)
    with pytest.raises(TooManyError):
        turnstile.count("d")
    turnstile.count("a")


def refused(guard, path, **more):
    return guard._refusal({"path": path, "method": "GET", **more})[0]


def test_files_of_one_folder_alone_are_served(tmp_path):
    folder, other = tmp_path / "page", tmp_path / "page2"
    folder.mkdir()
    other.mkdir()
    (other / "x").write_text("x")
    (folder / "link").symlink_to(other / "x")
    (folder / "y").write_text("")
    guard = PageGuard(None, folder, Limits(), Turnstile(Limits()))
    for prefix in ("/gradio_api/file=", "/file="):
        places = (folder / "y", other / "x", folder / "link", folder, folder / "z")
        assert [refused(guard, f"{prefix}{place}") for place in places] == [200, 404, 404, 404, 404]
    assert refused(guard, f"/gradio_api/file/{folder / 'y'}") == 404
    assert refused(guard, "/gradio_api/proxy=http://a") == 404
    assert refused(guard, "/gradio_api/info") == 200


def test_uploads_of_clients_are_counted_apart(tmp_path):
    guard = PageGuard(None, tmp_path, Limits(), Turnstile(Limits(per_second=1)))
    upload = lambda name: refused(guard, "/gradio_api/upload", method="POST", client=(name, 1))  # noqa: E731
    assert [upload("a"), upload("a"), upload("a"), upload("b")] == [200, 200, 429, 200]
