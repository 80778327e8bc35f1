"""What a server takes: bytes of a request, requests of a client in a second, and requests that wait."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_CLIENTS = 1024  # whose requests are counted; the least recent one is forgotten


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_bytes: Of a request's body.
        max_pixels: Of an image.
        per_second: Requests of one client, by its address; twice as many at once.
        max_waiting: Requests that wait for the model.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    per_second: float = 50.0
    max_waiting: int = 32


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
        with self._lock:
            self._count(client, time.monotonic())
            if self._waiting >= self._limits.max_waiting:
                raise TooManyError("The server is busy: try again in a moment.")
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def _count(self, client: str, now: float) -> None:
        most = 2 * self._limits.per_second
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
        text = f'{{"detail":"The request has more than {self._max_bytes} bytes."}}'.encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": text})
