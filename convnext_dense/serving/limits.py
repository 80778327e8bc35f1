"""What a server takes: bytes of a request, requests of a client in a second, and requests that wait."""

import contextlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_dense.errors import UserError

_CLIENTS = 1024  # whose requests are counted; the least recent one is forgotten


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_bytes: Of a request's body.
        max_pixels: Of an image.
        max_frames: Of a video.
        per_second: Requests of one client, by its address; twice as many at once.
        max_waiting: Requests that wait for the model.
        max_kept: Bytes of uploads, and of what is made of them, that are on disk at one time.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_frames: int = 1800
    per_second: float = 50.0
    max_waiting: int = 32
    max_kept: int = 4 * 2**30


class TooLargeError(UserError):
    """An upload is larger than the limits allow."""


class TooManyError(Exception):
    """More requests wait, or came from a client, than the limits allow."""


class Turnstile:
    """Lets requests in as the limits allow."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._waiting = 0
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (when, requests left)

    @contextmanager
    def __call__(self, client: str) -> Iterator[None]:
        """Count a request of a client for as long as it lasts.

        Raises:
            TooManyError: It is one too many.
        """
        self.count(client)
        with self._lock:
            if self._waiting >= self._limits.max_waiting:
                raise TooManyError("The server is busy: try again in a moment.")
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def count(self, client: str) -> None:
        """Count a request of a client that does not wait for the model.

        Raises:
            TooManyError: It is one too many.
        """
        most = 2 * self._limits.per_second
        now = time.monotonic()
        with self._lock:
            when, left = self._clients.pop(client, (now, most))
            left = min(left + (now - when) * self._limits.per_second, most)
            self._clients[client] = (now, max(left - 1, 0.0))
            if len(self._clients) > _CLIENTS:
                self._clients.popitem(last=False)
        if left < 1:
            raise TooManyError(f"More than {self._limits.per_second:g} requests in a second: try again in a moment.")


class BodyLimit:
    """ASGI middleware that ends a request whose body is too large, before more of it is read.

    Args:
        app: The application.
        max_bytes: Of a body.
    """

    def __init__(self, app: Any, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer with 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self._max_bytes:
            await self._refuse(send)
            return
        received, is_too_large = 0, False

        async def limited() -> Any:
            nonlocal received, is_too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                is_too_large = True
                raise ValueError("The body is too large.")  # the application answers in its own words
            return message

        async def unless_too_large(message: Any) -> None:
            if not is_too_large:
                await send(message)

        try:
            await self._app(scope, limited, unless_too_large)
        except ValueError:
            if not is_too_large:
                raise
        if is_too_large:
            await self._refuse(send)

    async def _refuse(self, send: Any) -> None:
        await _answer(send, 413, f"The request has more than {self._max_bytes / 2**20:g} MB.")


class PageGuard:
    """ASGI middleware in front of Gradio.

    It serves files of one folder alone, and fetches no address for anybody; uploads are counted, and refused while the
    folder is full.

    Args:
        app: The application.
        folder: The folder.
        limits: Of uploads.
        turnstile: Counts the requests of clients.
    """

    def __init__(self, app: Any, folder: Path, limits: Limits, turnstile: Turnstile) -> None:
        self._app, self._limits, self._turnstile = app, limits, turnstile
        self._folder = os.path.realpath(folder)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        status, text = self._refusal(scope) if scope["type"] == "http" else (200, "")
        if status == 200:
            await self._app(scope, receive, send)
        else:
            await _answer(send, status, text)

    def _refusal(self, scope: Any) -> tuple[int, str]:
        path = scope["path"]
        if "proxy=" in path:
            return 404, "Not Found"
        _, is_file, name = path.partition("/file")
        if is_file and not (name.startswith("=") and self._has(name[1:])):
            return 404, "Not Found"
        if scope["method"] == "POST" and path.rstrip("/").endswith("/upload"):
            try:
                self._turnstile.count((scope.get("client") or ("",))[0])
                check_room(self._folder, self._limits)
            except TooManyError as error:
                return 429, str(error)
        return 200, ""

    def _has(self, name: str) -> bool:
        path = os.path.realpath(name)
        return path.startswith(self._folder + os.sep) and os.path.isfile(path)


def client_of(request: Any) -> str:
    """Return the address of whoever made a request."""
    return request.client.host if request.client else ""


def check_room(folder: str | Path, limits: Limits) -> None:
    """Raise ``TooManyError`` if the files of a folder take more than the limits allow."""
    if _bytes_in(folder) > limits.max_kept:
        raise TooManyError("The server has no room for more: try again later.")


def _bytes_in(folder: str | Path) -> int:
    sizes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # another request may remove it
                sizes += os.stat(os.path.join(place, name)).st_size
    return sizes


async def _answer(send: Any, status: int, text: str) -> None:
    body = json.dumps(dict(detail=text)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
