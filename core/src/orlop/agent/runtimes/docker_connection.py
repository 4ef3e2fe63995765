"""Connections to a node's engine, as bytes.

They are made here rather than by docker-py, which would need a thread for each direction and could not end one of
them; and of bare sockets, since a transport of asyncio gives up reading when the engine takes no more.

An engine that dies ends its connections like one that has said everything; so at each end it is asked whether it is
still there, and an end without an answer is an error. To connect is not enough: what listens may end last.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from orlop.agent.runtimes.docker_errors import EngineLost
from orlop.agent.runtimes.interface import READ_BYTES_MAX

CONNECT_TIMEOUT_S: Final = 5
DEFAULT_PORT: Final = 2375
_PING: Final = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"


async def connect(url: str) -> socket.socket:
    """A socket that does not block. Raises EngineLost; ValueError for an address of another kind."""
    parts = urlsplit(url)
    if parts.scheme not in ("unix", "tcp", "http"):
        raise ValueError(f"this needs an engine at a unix:// or tcp:// address; this node's is at {parts.scheme}://")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if parts.scheme == "unix":
                return await _connect(socket.AF_UNIX, parts.path)
            host, port = parts.hostname or "", parts.port or DEFAULT_PORT
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return await _connect(found[0][0], found[0][4])
    except (OSError, TimeoutError) as error:
        raise EngineLost(f"the Docker Engine cannot be reached: {error or 'no answer'}") from error


async def _connect(family: int, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, address)
        if family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        made.close()
        raise
    return made


async def connect_directly(url: str) -> DirectConnection:
    """Raises EngineLost, ValueError."""
    return DirectConnection(url, await connect(url))


async def _check(url: str) -> None:
    """Raises EngineLost when no engine answers there."""
    loop = asyncio.get_running_loop()
    with await connect(url) as raw:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_sendall(raw, _PING)
                if await loop.sock_recv(raw, 1):
                    return
        except (OSError, TimeoutError) as error:
            raise EngineLost(f"the Docker Engine went away: {error or 'no answer'}") from error
    raise EngineLost("the Docker Engine went away")


class DirectConnection:
    """A connection from this process; see `orlop.agent.runtimes.interface.Connection` for the methods."""

    def __init__(self, url: str, raw: socket.socket) -> None:
        self._url = url
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._using = 0
        self._waited = False
        self._closed = False

    async def read(self) -> bytes:
        """See `Connection`. Raises EngineLost."""
        with self._in_use():
            try:
                data = await self._received()
            except OSError:  # an engine that has said everything, and has not read everything, ends it in this way
                data = b""
        if not data:
            self._check_open()
            await _check(self._url)
        return data

    async def _received(self) -> bytes:
        """Whoever is cancelled meanwhile has taken nothing, unlike with the loop's own call. Raises OSError."""
        if not self._waited:
            await asyncio.sleep(0)  # who always has something to read must not keep the loop from all others
        self._waited = False
        while True:
            try:
                return self._raw.recv(READ_BYTES_MAX)
            except BlockingIOError:
                self._waited = True
                await self._readable()

    async def _readable(self) -> None:
        readable = self._loop.create_future()
        descriptor = self._raw.fileno()  # the loop would look up a socket's addresses, for a text that nobody reads
        self._loop.add_reader(descriptor, _set, readable)
        try:
            await readable
        finally:
            self._loop.remove_reader(descriptor)

    async def write(self, data: bytes) -> None:
        """See `Connection`. Raises EngineLost."""
        with self._in_use():
            try:
                await self._loop.sock_sendall(self._raw, data)
            except OSError as error:
                self._check_open()
                raise EngineLost(f"the Docker Engine takes no more: {error}") from error

    async def write_eof(self) -> None:
        """See `Connection`. Raises EngineLost."""
        with self._in_use():
            try:
                self._raw.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise EngineLost(f"the Docker Engine takes no more: {error}") from error

    async def close(self) -> None:
        """See `Connection`."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)  # whoever reads or writes is woken by it
            self._close_unused()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """The loop must not watch a socket that is closed. Raises EngineLost when it is."""
        self._check_open()
        self._using += 1
        try:
            yield
        finally:
            self._using -= 1
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._using:
            self._raw.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineLost("the connection was closed")


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
