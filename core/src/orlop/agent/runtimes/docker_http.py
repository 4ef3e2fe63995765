"""Short calls of a node's engine on the event loop, over connections that are kept.

docker-py would need a thread for each, and takes longer for one than the engine's own client takes for all of it: what
is asked at each start of a container is asked here. httptools does the grammar.
"""

from __future__ import annotations

import asyncio
from typing import Final

import httptools

from orlop.agent.runtimes.docker_connection import connect
from orlop.agent.runtimes.docker_errors import EngineLost

#: Of an answer that is read whole.
ANSWER_BYTES_MAX: Final = 64 * 2**20
#: More are closed after use: they are for bursts.
IDLE_CONNECTIONS_MAX: Final = 16
_WENT_AWAY: Final = "the Docker Engine went away"


class EngineHttp:
    """See the module. url: `unix://` or `tcp://`. timeout_s: of each call."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._idle: list[_Connection] = []
        self._closed = False

    async def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(status, body) of the answer. path: quoted. body: JSON. Raises EngineLost: it may have been done."""
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = self._kept() or await self._connect()
                try:
                    answer = await connection.ask(request_of(method, path, body))
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError:
            raise EngineLost("it does not answer") from None
        if connection.reusable and not self._closed and len(self._idle) < IDLE_CONNECTIONS_MAX:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        raw = await connect(self._url)
        try:
            _, made = await asyncio.get_running_loop().create_connection(_Connection, sock=raw)
        except BaseException:
            raw.close()
            raise
        return made

    def close(self) -> None:
        """Calls that are under way end with their connections."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


def request_of(method: str, path: str, body: bytes | None = None) -> bytes:
    """A whole request. path: quoted. body: JSON."""
    head = f"{method} {path} HTTP/1.1\r\nHost: docker\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    elif method != "GET":
        head += "Content-Length: 0\r\n"
    return f"{head}\r\n".encode() + (body or b"")


class _Connection(asyncio.Protocol):
    """One, for one call after the other. reusable: may another call go over it?"""

    def __init__(self) -> None:
        self.reusable = True
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._size = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(status, body). Raises EngineLost."""
        if self._transport is None:
            raise EngineLost(_WENT_AWAY)
        self._pieces, self._size = [], 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._answer = None

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, reason: str) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(EngineLost(reason))

    # Of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._fail("it answers what was not asked")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"it answers with something that is no HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._fail(_WENT_AWAY)

    # Of the parser

    def on_body(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > ANSWER_BYTES_MAX:
            self._fail(f"it answers with more than {ANSWER_BYTES_MAX} bytes")
        else:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self.reusable = self.reusable and self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._pieces)))
