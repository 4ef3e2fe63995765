"""A listener that speaks TLS, and bears with strangers.

Connections are accepted here rather than by the event loop, because of what the loop leaves unbounded: a handshake has
a deadline, and the number of those that are not finished a limit, beyond which the oldest is dropped, for an honest
one takes no time. Whoever speaks plain HTTP to it is told so. What comes after the handshake is the runner's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

from aiohttp import web

from orlop.api.half_close import accept_tls
from orlop.api.sparing import Sparing

log = logging.getLogger(__name__)

HANDSHAKE_WITHIN_S: Final = 10.0
UNFINISHED_MAX: Final = 512
BACKLOG: Final = 1_024
ACCEPT_AGAIN_S: Final = 0.5
#: The first byte of every TLS connection.
_HANDSHAKE_RECORD: Final = 0x16
#: message: where clients of Docker and Chronos look.
_PLAIN: Final = (
    b'{"error": "this port speaks TLS", "hint": "use https://", "message": "this port speaks TLS: use https://"}'
)
_TOLD: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_PLAIN), _PLAIN)
)


class TlsSite(web.BaseSite):
    """See the module. host: empty for all addresses. context: for the next connection.

    To be started after its runner is set up.
    """

    __slots__ = ("_accepting", "_context", "_host", "_listeners", "_port", "_said", "_unfinished", "_ungreeted")

    def __init__(self, runner: web.BaseRunner, host: str, port: int, context: Callable[[], ssl.SSLContext]) -> None:
        super().__init__(runner, ssl_context=context())
        self._host = host
        self._port = port
        self._context = context
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._unfinished: dict[asyncio.Task[None], None] = {}
        self._ungreeted: set[socket.socket] = set()
        self._said = Sparing(log)

    @property
    def name(self) -> str:
        return f"https://{self._host or '0.0.0.0'}:{self._port}"  # noqa: S104  (a name, not a listener)

    async def start(self) -> None:
        """Raises OSError."""
        await super().start()
        loop = asyncio.get_running_loop()
        self._listeners = await _listen(self._host, self._port)
        self._accepting = [loop.create_task(self._accept_forever(one)) for one in self._listeners]

    async def stop(self) -> None:
        """Takes no new connections. Those that are there are the runner's."""
        for task in (*self._accepting, *self._unfinished):
            task.cancel()
        for listener in self._listeners:
            listener.close()
        await super().stop()

    async def _accept_forever(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError as error:  # no more descriptors, or a peer that is gone already
                self._said.warning("accept", f"a connection cannot be accepted: {error}")
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            if len(self._unfinished) >= UNFINISHED_MAX:
                oldest = next(iter(self._unfinished))
                del self._unfinished[oldest]
                oldest.cancel()
                self._said.warning("crowd", f"{UNFINISHED_MAX} handshakes are under way: the oldest is dropped")
            task = loop.create_task(self._greet(connection, str(peer[0])))
            self._unfinished[task] = None
            self._ungreeted.add(connection)
            task.add_done_callback(partial(self._greeted, connection))

    def _greeted(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._unfinished.pop(task, None)
        if connection in self._ungreeted:  # it was cancelled before its first step
            self._ungreeted.discard(connection)
            connection.close()

    async def _greet(self, connection: socket.socket, peer: str) -> None:
        self._ungreeted.discard(connection)
        taken = False
        try:
            async with asyncio.timeout(HANDSHAKE_WITHIN_S):
                first = await _first_byte(connection)
                if first == _HANDSHAKE_RECORD:
                    taken = True  # from here on it is closed by its transport
                    await accept_tls(connection, self._protocols, self._context())
                elif first is not None:
                    self._said.warning(f"plain {peer}", f"a connection from {peer} does not speak TLS: refused")
                    await asyncio.get_running_loop().sock_sendall(connection, _TOLD)
        except TimeoutError:
            late = f"a connection from {peer} has not finished its TLS handshake in time: refused"
            self._said.warning(f"late {peer}", late)
        except (ssl.SSLError, OSError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            reason = reason or type(error).__name__
            self._said.warning(f"{reason} {peer}", f"TLS with {peer} failed: {reason}")
        finally:
            if not taken:
                connection.close()

    def _protocols(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None, "the runner is set up"
        return server()


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of the host. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            if family not in (socket.AF_INET, socket.AF_INET6):
                continue
            listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
            listener.setblocking(False)
            listeners.append(listener)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def _first_byte(connection: socket.socket) -> int | None:
    """What comes first, left where it is; None when nothing does."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    while True:
        with contextlib.suppress(BlockingIOError):
            data = connection.recv(1, socket.MSG_PEEK)
            return data[0] if data else None
        readable = loop.create_future()
        loop.add_reader(connection, _set, readable)
        try:
            await readable
        finally:
            loop.remove_reader(connection)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
