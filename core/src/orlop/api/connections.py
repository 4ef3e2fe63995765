"""Clients that hold connections: how many there may be, and how long one may keep a request waiting.

A connection costs a file, and without files nothing can be started. So there are at most `connections_max()` in this
process, over all listeners; one without a request is closed after `IDLE_S`, one that owes the rest of a body after
`SILENCE_S` without a byte of it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web, web_protocol

from orlop.api.frames import FrameFollower, KnownMessage
from orlop.api.problems import Problem

log = logging.getLogger(__name__)

IDLE_S: Final = 75.0
SILENCE_S: Final = 60.0
CONNECTIONS_MAX: Final = 4_096

_open: set[BoundedProtocol] = set()


def connections_max() -> int:
    """A third of the files that this process may open: as many again may be accepted before they are counted."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if files == resource.RLIM_INFINITY else min(CONNECTIONS_MAX, files // 3)


class BoundedProtocol(web_protocol.RequestHandler):
    """A connection that does not wait for ever."""

    __slots__ = ("_call", "_check", "_follower", "_heard_at", "_known")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._heard_at = self._loop.time()
        self._follower: FrameFollower | None = None
        self._known: KnownMessage | None = None
        self._check = self._loop.call_later(SILENCE_S, self._check_silence)
        if len(_open) < connections_max():
            _open.add(self)
            return
        assert self.transport is not None, "it was made just now"
        self.transport.write(_refusal())
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._check.cancel()
        _open.discard(self)
        super().connection_lost(exc)

    def leave(self) -> None:
        """It is known who this is, and somebody else bounds how many of them there are."""
        _open.discard(self)

    def follow_frames(self) -> None:
        """To be called before the request is made a WebSocket, if `take_out` is wanted."""
        self._follower = FrameFollower()

    def take_out(self, message: KnownMessage, call: Callable[[], None]) -> None:
        """From now on `call` is called when the WebSocket's client sends this message, which nobody else receives, if
        it arrives by itself; among others it is received as they are."""
        self._known, self._call = message, call

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        alone = self._follower is not None and self._follower.is_one(data)
        if alone and self._known is not None and self._known.is_in(data):
            self._call()
            return
        super().data_received(data)

    def _check_silence(self) -> None:
        silence_s = self._loop.time() - self._heard_at if self._is_owed_a_body() else 0.0
        if silence_s >= SILENCE_S:
            self.force_close()
        else:
            self._check = self._loop.call_later(SILENCE_S - silence_s, self._check_silence)

    def _is_owed_a_body(self) -> bool:
        """Not while this side does not read: then it is us who keep the client waiting."""
        request, transport = self._current_request, self.transport
        reads = isinstance(transport, asyncio.ReadTransport) and transport.is_reading()
        return reads and request is not None and not self._upgraded and not request.content.is_eof()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What is wrong with a client's body has been answered; it is nothing for the server's log."""
        quiet = isinstance(kw.get("exc_info"), web.RequestPayloadError)
        log.log(logging.DEBUG if quiet else logging.ERROR, *args, **kw)


@functools.cache
def _refusal() -> bytes:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    body = Problem(status, "too many connections are open already").response().body
    assert isinstance(body, bytes)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "Retry-After: 5",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
