"""An end of a session that is a WebSocket: the same `Link` on the server's side and on the agent's.

Sending queues bytes, and one task per link writes them in order; so whoever sends never waits, and a peer that does
not keep up loses the session rather than filling the memory. What cannot be read, or is not from whom it should be,
ends the session with the reason, in the log of both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

from aiohttp import WSCloseCode, WSMessage, WSMsgType

from orlop.agent.session import LinkClosed
from orlop.model import wire
from orlop.sockets import break_off_at_close, keep_alive

log = logging.getLogger(__name__)

Sent = TypeVar("Sent", contravariant=True)
Got = TypeVar("Got", covariant=True)

QUEUED_BYTES_MAX: Final = 4 * wire.MESSAGE_BYTES_MAX
#: How long a link that is closed may take to send what is queued and to say goodbye.
CLOSE_WITHIN_S: Final = 3.0
#: Silence is probed after 15 s, four times; what is sent and not acknowledged for 30 s breaks the connection.
_TCP_OPTIONS: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
#: Of <linux/tcp.h>, from Linux 6.15 on: what is lost is sent again after so many milliseconds at the latest.
_TCP_RTO_MAX: Final = (44, 1_000)
#: What a close frame can carry is 123 bytes.
_REASON_BYTES_MAX: Final = 120


class WebSocket(Protocol):
    """What aiohttp's two kinds of WebSockets have in common."""

    @property
    def close_code(self) -> int | None: ...

    async def send_bytes(self, data: bytes) -> None: ...

    async def receive(self) -> Any: ...

    async def ping(self, message: bytes = b"") -> None: ...

    async def close(self, *, code: int = 1000, message: bytes = b"") -> object: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


def socket_below(web_socket: WebSocket) -> Any:
    """The system's socket; None when it is closed."""
    with contextlib.suppress(AttributeError):  # a TLS transport that is closed falls over its own question
        return web_socket.get_extra_info("socket")
    return None


def cut_connection(web_socket: WebSocket, *, reset: bool = False) -> None:
    """Ends the connection below a WebSocket at once: whoever waits for it finds it ended.

    reset: the other end is told so even if it reads nothing, and what it has not got yet is lost.
    """
    raw = socket_below(web_socket)
    if raw is not None:
        if reset:
            break_off_at_close(raw)
        with contextlib.suppress(OSError):  # it has ended already
            raw.shutdown(socket.SHUT_RDWR)


def look_after(raw: Any) -> None:
    """Lets the system find out that the other end of a connection is dead, whoever waits for it."""
    if keep_alive(raw, _TCP_OPTIONS) and sys.platform == "linux":
        with contextlib.suppress(OSError):  # an older one does not know it
            raw.setsockopt(socket.IPPROTO_TCP, *_TCP_RTO_MAX)


class WebSocketLink(Generic[Sent, Got]):
    """See the module. To be made on the event loop.

    peer: who it is, for the log. decode: of the messages of the other end. encode: of those for it. refusal: the
    message that tells the other end why it is refused, where there is one. check: why a message is not acceptable, None
    when it is. first_within_s: for the first message. idle_s: the link is closed when nothing has arrived for so long;
    None: never. take_out: makes whoever reads the socket call something for each heartbeat; None where there is nobody
    who would.
    """

    def __init__(
        self,
        web_socket: WebSocket,
        decode: Callable[[bytes], Got],
        peer: str,
        *,
        encode: Callable[[Any], Iterable[bytes]] = wire.encode_in_pieces,
        refusal: Callable[[str], Any] | None = None,
        check: Callable[[Any], str | None] = lambda _: None,
        first_within_s: float | None = None,
        idle_s: float | None = None,
        take_out: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._socket = web_socket
        self._decode = decode
        self._encode = encode
        self._peer = peer
        self._refusal = refusal
        self._check = check
        self._first_within_s = first_within_s
        self._idle_s = idle_s
        self._take_out = take_out
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closed: str | None = None
        self._code = WSCloseCode.OK
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._writer = self._loop.create_task(self._write_forever())
        self._idle_check: asyncio.TimerHandle | None = None
        self._plan_idle_check()

    def send(self, message: Sent) -> None:
        """See `Link`."""
        if self._closed is not None:
            raise LinkClosed(self._closed)
        for data in self._encode(message):
            self._queue.append(data)
            self._queued_bytes += len(data)
        if self._queued_bytes > QUEUED_BYTES_MAX:
            self._queue.clear()
            self.close("the other end does not keep up")
            raise LinkClosed("the other end does not keep up")
        self._wake.set()

    async def receive(self) -> Got:
        """See `Link`."""
        if self._first_within_s is None:
            return await self._next()
        try:
            async with asyncio.timeout(self._first_within_s):
                message = await self._next()
        except TimeoutError:
            self._refuse(f"no message within {self._first_within_s:g} s")
        self._first_within_s = None
        return message

    async def _next(self) -> Got:
        frame = await self._socket.receive()
        self._heard_s = self._loop.time()
        if frame.type is not WSMsgType.BINARY:
            self._ended(frame)
        try:
            message = self._decode(frame.data)
        except wire.WireError as error:
            self._refuse(str(error))
        why = self._check(message)
        if why is not None:
            self._refuse(why)
        return message

    def hear(self, call: Callable[[], None]) -> None:
        """See `Link`."""
        if self._take_out is None:
            return

        def heard() -> None:
            self._heard_s = self._loop.time()
            if self._closed is None:
                call()

        self._take_out(heard)

    def close(self, reason: str = "") -> None:
        """See `Link`. What is queued is still sent, see `finished`."""
        if self._closed is None:
            self._closed = reason or "closed"
            if self._idle_check is not None:
                self._idle_check.cancel()
            self._wake.set()
            self._loop.call_later(CLOSE_WITHIN_S, self._cut)

    async def finished(self) -> None:
        """Until a closed link has sent what was queued and is gone, or its time for that is over."""
        await asyncio.wait([self._writer], timeout=CLOSE_WITHIN_S)

    def _cut(self) -> None:
        """A peer that takes nothing any more cannot be said goodbye to; who waits for its messages must know."""
        if not self._writer.done():
            self._writer.cancel()
            cut_connection(self._socket)

    def _ended(self, frame: WSMessage) -> NoReturn:
        if frame.type is WSMsgType.TEXT:
            self._refuse("expected a binary message, got a text")
        said = frame.extra if isinstance(frame.extra, str) and frame.extra else ""
        if frame.type is WSMsgType.ERROR:  # such as a frame that is too large, which aiohttp refuses unread
            said = str(frame.data)
            log.warning("the session with %s breaks off: %s", self._peer, said)
        reason = said or self._closed or f"closed by the other end (code {self._socket.close_code})"
        self.close(reason)
        raise LinkClosed(reason)

    def _refuse(self, reason: str) -> NoReturn:
        """Ends the session with the reason. Raises LinkClosed."""
        if self._closed is None and self._refusal is not None:
            with contextlib.suppress(LinkClosed):
                self.send(self._refusal(reason))
        if self._closed is None:
            log.warning("the session with %s is refused: %s", self._peer, reason)
            self._code = WSCloseCode.POLICY_VIOLATION
        self.close(reason)
        raise LinkClosed(reason)

    async def _write_forever(self) -> None:
        try:
            while self._closed is None or self._queue:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    data = self._queue.popleft()
                    await self._socket.send_bytes(data)
                    self._queued_bytes -= len(data)
            reason = self._closed.encode()[:_REASON_BYTES_MAX].decode(errors="ignore").encode()
            await self._socket.close(code=self._code, message=reason)
        except (ConnectionError, RuntimeError) as error:  # aiohttp says RuntimeError of a socket that is closed
            self.close(str(error) or type(error).__name__)

    def _plan_idle_check(self) -> None:
        if self._idle_s is not None:
            due_s = self._heard_s + self._idle_s
            self._idle_check = self._loop.call_at(due_s, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        assert self._idle_s is not None
        if self._closed is not None:
            return
        if self._loop.time() - self._heard_s >= self._idle_s:
            self._queue.clear()
            self.close(f"nothing was heard for {self._idle_s:g} s")
        else:
            self._plan_idle_check()
