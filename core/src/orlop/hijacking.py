"""A client's HTTP connection becomes raw bytes, as after `101 Switching Protocols`, or with Docker's streams.

aiohttp's own protocol closes a connection when the client has no more to say, and what was still to be said to it would
be lost. So the connection gets another protocol, which lets each direction end by itself.

Then nothing tells that the client is gone while nothing is said to it, and what it has said is not taken: its end lies
behind what is not read, or was the end of one direction. So the connection itself is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from orlop.sockets import has_ended, keep_alive

#: How often a connection is looked at. A client that is gone counts as gone at the second look, if none of what it has
#: left was taken meanwhile.
LOOK_S: Final = 2.0
#: By them the system finds out that a client's machine is gone, or that there is no such connection any more.
_TCP_OPTIONS: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class EndsByItself(asyncio.StreamReaderProtocol):
    """asyncio's protocol of streams, which over TLS takes one direction's end for both's."""

    def eof_received(self) -> bool:
        super().eof_received()
        return True


class _Reader(asyncio.StreamReader):
    """Counts how often it is read from."""

    asked = 0

    async def read(self, n: int = -1) -> bytes:
        self.asked += 1
        return await super().read(n)


@asynccontextmanager
async def taken_over(
    request: web.Request, limit_bytes: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The client's connection without HTTP, to be answered on from the head's first byte; closed afterwards.

    The reader begins with what the client has said after its request; it holds back the client from twice `limit_bytes`
    on. The handler returns an empty response, of which nothing is sent.

    Raises ConnectionResetError: the client is gone. Whatever is waited for within is cancelled then.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    former = transport.get_protocol()
    transport.pause_reading()
    reader = _Reader(limit=limit_bytes)
    protocol = EndsByItself(reader)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    if early := bytes(getattr(former, "_message_tail", b"")):  # what came together with the request
        reader.feed_data(early)
    transport.resume_reading()
    try:
        async with asyncio.timeout(None) as present:
            watching = asyncio.create_task(_watch(transport, reader, present))
            try:
                yield reader, writer
            finally:
                watching.cancel()
    except TimeoutError:
        if not present.expired():
            raise
        raise ConnectionResetError("the client is gone") from None
    finally:
        writer.close()
        former.connection_lost(None)  # aiohttp counts its connections


async def _watch(transport: asyncio.Transport, reader: _Reader, present: asyncio.Timeout) -> None:
    """Ends `present` when the client is gone."""
    keep_alive(transport.get_extra_info("socket"), _TCP_OPTIONS)
    asked = -1
    while True:
        await asyncio.sleep(LOOK_S)
        if not has_ended(transport.get_extra_info("socket")):
            continue  # nor is an end of its own direction alone
        if reader.asked == asked:
            transport.abort()
            present.reschedule(asyncio.get_running_loop().time())
            return
        asked = reader.asked
