"""An engine's events, read by a thread of one's own.

docker-py's reader hands each piece through the layers of four libraries, which costs more than all else that is done
for an event; and there are several for each container. httptools does the grammar, and engines write one on each line.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httptools
import orjson

from orlop.agent.runtimes.docker_connection import CONNECT_TIMEOUT_S, DEFAULT_PORT
from orlop.agent.runtimes.docker_errors import EngineLost, engine_errors, refusal
from orlop.agent.runtimes.docker_http import request_of

RECEIVE_BYTES: Final = 64 * 1024
#: Of a line, and of a refusal.
LINE_BYTES_MAX: Final = 16 * 2**20


class Events:
    """GET /events; to be iterated once, and closed by who has done so. `cut` may be called from any thread.

    url: `unix://` or `tcp://`. version: of the API, `1.41`. since_s, until_s: seconds since 1970; without an end they
    go on until the engine goes away. filters: as the API has them. timeout_s: until the engine begins to answer.
    pause_s: before more is read, for those who have time: what comes within a moment then wakes nobody by itself.

    Raises EngineLost, EngineRefused; while it is iterated EngineLost, for what is not said as an engine says it.
    """

    def __init__(
        self,
        url: str,
        version: str,
        *,
        since_s: int,
        until_s: int | None = None,
        filters: Mapping[str, Sequence[str]],
        timeout_s: float,
        pause_s: float = 0,
    ) -> None:
        query = {"since": since_s, "filters": orjson.dumps(filters).decode()}
        if until_s is not None:
            query["until"] = until_s
        self._pause_s = pause_s
        self._cut = threading.Event()
        self._lines = _Lines()
        self._parser = httptools.HttpResponseParser(self._lines)
        self._socket = _connect(url)
        try:
            self._socket.settimeout(timeout_s)
            with engine_errors():
                self._socket.sendall(request_of("GET", f"/v{version}/events?{urlencode(query)}"))
            while not self._lines.begun:
                self._receive()
            status = self._parser.get_status_code()
            if status >= HTTPStatus.BAD_REQUEST:
                size = 0
                while not self._lines.ended and size < LINE_BYTES_MAX:
                    size += self._receive()
                raise refusal(status, b"\n".join(self._lines.whole))
            self._socket.settimeout(None)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[dict[str, Any]]:
        lines = self._lines
        while True:
            while lines.whole:
                yield _event(lines.whole.popleft())
            if lines.ended:
                return
            if self._pause_s:
                self._cut.wait(self._pause_s)
            self._receive()

    def _receive(self) -> int:
        """How many bytes. Raises EngineLost."""
        with engine_errors():
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except ConnectionResetError:  # it has ended while something was still on its way
                data = b""
        if not data:
            raise EngineLost("it closed the connection")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise EngineLost(f"it answers with something that is no HTTP: {error}") from error
        if len(self._lines.rest) > LINE_BYTES_MAX:
            raise EngineLost(f"it tells an event of more than {LINE_BYTES_MAX} bytes")
        return len(data)

    def cut(self) -> None:
        """Whoever iterates finds them ended."""
        self._cut.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class _Lines:
    """Takes an answer from the parser. begun: its head has come; ended: all of it. whole: lines. rest: of the next."""

    def __init__(self) -> None:
        self.begun = False
        self.ended = False
        self.whole: deque[bytes] = deque()
        self.rest = b""

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_body(self, piece: bytes) -> None:
        *lines, self.rest = (self.rest + piece).split(b"\n")
        self.whole.extend(filter(None, lines))

    def on_message_complete(self) -> None:
        if self.rest:
            self.whole.append(self.rest)
        self.ended = True


def _connect(url: str) -> socket.socket:
    """Raises EngineLost."""
    parts = urlsplit(url)
    with engine_errors():
        if parts.scheme != "unix":
            return socket.create_connection((parts.hostname, parts.port or DEFAULT_PORT), CONNECT_TIMEOUT_S)
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(CONNECT_TIMEOUT_S)
            made.connect(parts.path)
        except BaseException:
            made.close()
            raise
        return made


def _event(line: bytes) -> dict[str, Any]:
    """Raises EngineLost."""
    try:
        event: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise EngineLost(f"the engine tells an event that is no JSON: {error}") from error
    return event
