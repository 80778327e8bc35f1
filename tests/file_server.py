"""A web server on 127.0.0.1 that sends one file, and misbehaves as it is told."""

import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Sends ``content`` for every path.

    ``ranges`` says whether parts are sent; the first answer ends after ``cut`` bytes; every answer has ``status``,
    comes after ``delay`` seconds, and pauses for ``stall`` seconds in the middle. ``requests`` are the ranges that were
    asked for.
    """

    def __init__(self, content, *, ranges=True, cut=None, status=200, delay=0.0, stall=0.0, tag='"1"', sized=True):
        self.content, self.ranges, self.cut, self.status = content, ranges, cut, status
        self.delay, self.stall, self.tag, self.sized = delay, stall, tag, sized
        self.requests = []

    def address(self, name):
        return f"http://127.0.0.1:{self.port}/weights/{name}"

    def answer(self, request):
        asked = request.headers.get("Range")
        self.requests.append(asked)
        time.sleep(self.delay)
        if self.status != 200:
            return request.send_error(self.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.ranges else 0
        if start >= len(self.content) and start:
            return request.send_error(416)
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.tag:
            request.send_header("ETag", self.tag)
        if self.sized:
            request.send_header("Content-Length", str(len(self.content) - start))
        request.end_headers()
        end = len(self.content) if self.cut is None else self.cut
        self.cut = None
        half = (start + end) // 2
        request.wfile.write(self.content[start:half])
        request.wfile.flush()
        time.sleep(self.stall)
        request.wfile.write(self.content[half:end])


@contextlib.contextmanager
def serving(content, **behaviour):
    """Yield a running ``FileServer``."""
    files = FileServer(content, **behaviour)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(ConnectionError):  # of a client that has had enough
                files.answer(self)
            self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        files.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield files
        server.shutdown()
