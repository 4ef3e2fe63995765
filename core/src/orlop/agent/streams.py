"""Ends of streams: frames of bytes both ways, each direction ended by itself.

Across a network an end is a WebSocket whose binary messages are the frames, an empty one being the end of a
direction; whoever does not read stops the other one's writing, through TCP. In one process it is a pair of short
queues. Nothing is read ahead, so memory is bounded whatever is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Protocol

from aiohttp import WSCloseCode, WSMessage, WSMsgType

from orlop.agent.websocket import WebSocket, cut_connection, socket_below
from orlop.model.streams import FRAME_BYTES_MAX
from orlop.sockets import has_ended

#: Frames that a local stream holds in each direction.
LOCAL_FRAMES_MAX: Final = 4
CLOSE_WITHIN_S: Final = 2.0
#: The other end has ended the connection, whatever is still to be read. Errors are always looked for.
_ENDED: Final = getattr(select, "POLLRDHUP", 0)


class StreamClosed(ConnectionError):
    """The stream has broken off, or was closed; the text says why, where that is known."""


class StreamEnd(Protocol):
    """One end of a stream."""

    async def send(self, data: bytes) -> None:
        """One frame, of at most FRAME_BYTES_MAX, else several; empty data is none. Returns when there is room for
        more. Raises StreamClosed."""

    async def send_end(self) -> None:
        """No more will be sent; receiving goes on. Raises StreamClosed."""

    async def receive(self) -> bytes | None:
        """The next frame; None when the other end has said that no more will come. Raises StreamClosed."""

    async def gone(self) -> None:
        """After `receive` has said that no more will come: returns when the other end is gone altogether."""

    def is_cut(self) -> bool:
        """Is the other end gone, though what it has sent before was not received yet?"""

    async def abort(self) -> None:
        """Ends both directions at once, without a word; what is under way is lost."""

    async def close(self, reason: str = "") -> None:
        """Ends both directions."""


async def frames(stream: StreamEnd) -> AsyncIterator[bytes]:
    """All frames up to the end of their direction. Raises StreamClosed."""
    while (frame := await stream.receive()) is not None:
        yield frame


class WebSocketStream:
    """A stream over a WebSocket, of either side."""

    def __init__(self, web_socket: WebSocket) -> None:
        self._socket = web_socket
        self._ended = False
        self._early: asyncio.Task[WSMessage] | None = None

    async def broken(self) -> None:
        """While nobody receives: returns when the stream breaks off, or a frame comes (which `receive` gives then).

        May be cancelled at any time. It keeps the connection looked after while it waits to be used.
        """
        if self._early is None:
            self._early = asyncio.get_running_loop().create_task(self._socket.receive())
        await asyncio.wait([self._early])

    async def send(self, data: bytes) -> None:
        """See `StreamEnd`."""
        for start in range(0, len(data), FRAME_BYTES_MAX):
            await self._send(data[start : start + FRAME_BYTES_MAX])

    async def send_end(self) -> None:
        """See `StreamEnd`."""
        await self._send(b"")

    async def _send(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(data)
        except (ConnectionError, RuntimeError) as error:  # aiohttp says RuntimeError of a socket that is closed
            raise StreamClosed(str(error) or "the stream is closed") from error

    async def receive(self) -> bytes | None:
        """See `StreamEnd`."""
        if self._ended:
            return None
        frame = await (self._socket.receive() if self._early is None else self._what_came_early(self._early))
        if frame.type is WSMsgType.BINARY:
            self._ended = not frame.data
            return frame.data or None
        if frame.type is WSMsgType.TEXT:
            await self.close("expected binary messages, got a text")
            raise StreamClosed("expected binary messages, got a text")
        said = str(frame.data) if frame.type is WSMsgType.ERROR else frame.extra
        raise StreamClosed(said if isinstance(said, str) and said else "the other end is gone")

    async def _what_came_early(self, early: asyncio.Task[WSMessage]) -> WSMessage:
        """Being cancelled loses no frame: here it is shielded, and else aiohttp takes none before it gives it."""
        try:
            frame = await asyncio.shield(early)
        except asyncio.CancelledError:
            if self._early is None:  # closed by somebody else meanwhile
                raise StreamClosed("the stream was closed") from None
            raise
        self._early = None
        return frame

    async def gone(self) -> None:
        """See `StreamEnd`."""
        assert self._ended
        while (await self._socket.receive()).type is WSMsgType.BINARY:
            continue

    def is_cut(self) -> bool:
        """See `StreamEnd`."""
        return has_ended(socket_below(self._socket), also=_ENDED)

    async def abort(self) -> None:
        """See `StreamEnd`."""
        cut_connection(self._socket, reset=True)
        await self.close()

    async def close(self, reason: str = "") -> None:
        """See `StreamEnd`."""
        code = WSCloseCode.POLICY_VIOLATION if reason else WSCloseCode.OK
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._socket.close(code=code, message=reason.encode()[:120])
        except (TimeoutError, ConnectionError, RuntimeError):
            cut_connection(self._socket)
        early, self._early = self._early, None
        if early is not None:
            early.cancel()
            await asyncio.wait([early])
            if not early.cancelled():
                early.exception()


class _Direction:
    """Frames on their way within one event loop."""

    def __init__(self) -> None:
        self._frames: deque[bytes | None] = deque()
        self._changed = asyncio.Condition()
        self._closed: str | None = None

    @property
    def closed(self) -> bool:
        return self._closed is not None

    async def put(self, frame: bytes | None) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._frames) < LOCAL_FRAMES_MAX or self._closed is not None)
            if self._closed is not None:
                raise StreamClosed(self._closed)
            self._frames.append(frame)
            self._changed.notify_all()

    async def get(self) -> bytes | None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._frames or self._closed is not None)
            if not self._frames:
                raise StreamClosed(self._closed)
            self._changed.notify_all()
            return self._frames.popleft()

    async def close(self, reason: str) -> None:
        async with self._changed:
            self._closed = self._closed or reason or "the other end is gone"
            self._changed.notify_all()


class LocalStream:
    """An end of a stream within one event loop."""

    def __init__(self, incoming: _Direction, outgoing: _Direction) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._ended = False

    async def send(self, data: bytes) -> None:
        """See `StreamEnd`."""
        for start in range(0, len(data), FRAME_BYTES_MAX):
            await self._outgoing.put(data[start : start + FRAME_BYTES_MAX])

    async def send_end(self) -> None:
        """See `StreamEnd`."""
        await self._outgoing.put(None)

    async def receive(self) -> bytes | None:
        """See `StreamEnd`."""
        if self._ended:
            return None
        frame = await self._incoming.get()
        self._ended = frame is None
        return frame

    async def gone(self) -> None:
        """See `StreamEnd`."""
        with contextlib.suppress(StreamClosed):
            while True:
                await self._incoming.get()

    def is_cut(self) -> bool:
        """See `StreamEnd`."""
        return self._incoming.closed

    async def abort(self) -> None:
        """See `StreamEnd`."""
        await self.close()

    async def close(self, reason: str = "") -> None:
        """See `StreamEnd`."""
        await self._incoming.close(reason)
        await self._outgoing.close(reason)


def local_stream() -> tuple[LocalStream, LocalStream]:
    """Both ends of a stream within this event loop."""
    one, other = _Direction(), _Direction()
    return LocalStream(one, other), LocalStream(other, one)
