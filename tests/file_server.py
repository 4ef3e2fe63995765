"""A server of files for tests: what it serves is said by the test, and it tells what it was asked for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class FileServer:
    """files: path → content. asked: (path, status) of each answer. hung: paths whose content stops half-way, until
    `release`. short: paths that promise one byte more than they have. moved: path → URI that is answered instead.
    stated: do contents have an ETag?"""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []
        self.authorization: list[str | None] = []
        self.hung: set[str] = set()
        self.short: set[str] = set()
        self.moved: dict[str, str] = {}
        self.stated = True
        self._released = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def url(self, path: str = "", credentials: str = "") -> str:
        return f"http://{credentials}127.0.0.1:{self._server.server_port}{path}"

    def release(self) -> None:
        self._released.set()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def statuses(self, path: str) -> list[int]:
        return [status for asked, status in list(self.asked) if asked == path]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        content = self.files.get(path.partition("?")[0])
        tag = f'"{hashlib.sha256(content or b"").hexdigest()}"'
        unchanged = handler.headers.get("If-None-Match") == tag
        status = 404 if content is None else 304 if unchanged else 200
        status = 302 if path in self.moved else status
        self.authorization.append(handler.headers.get("Authorization"))
        self.asked.append((path, status))
        handler.send_response(status)
        body = content if content is not None and status == 200 else b""
        handler.send_header("Content-Length", str(len(body) + (path in self.short)))
        if self.stated and content is not None:
            handler.send_header("ETag", tag)
        if path in self.moved:
            handler.send_header("Location", self.moved[path])
        handler.end_headers()
        half = len(body) // 2
        try:
            handler.wfile.write(body[:half])
            handler.wfile.flush()
            if path in self.hung:
                self._released.wait()
            handler.wfile.write(body[half:])
        except ConnectionError:
            pass  # it was killed in the middle


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    server = FileServer()
    try:
        yield server
    finally:
        server.close()
