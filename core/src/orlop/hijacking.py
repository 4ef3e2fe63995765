"""A client's HTTP connection becomes raw bytes, as after `101 Switching Protocols`, or with Docker's streams.

aiohttp's own protocol closes a connection when the client has no more to say, and what was still to be said to it would
be lost. So the connection gets another protocol, which lets each direction end by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


class EndsByItself(asyncio.StreamReaderProtocol):
    """asyncio's protocol of streams, which over TLS takes one direction's end for both's."""

    def eof_received(self) -> bool:
        super().eof_received()
        return True


@asynccontextmanager
async def taken_over(
    request: web.Request, limit_bytes: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The client's connection without HTTP, to be answered on from the head's first byte; closed afterwards.

    The reader begins with what the client has said after its request; it holds back the client from twice `limit_bytes`
    on. The handler returns an empty response, of which nothing is sent.

    Raises ConnectionResetError: the client is gone.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    former = transport.get_protocol()
    transport.pause_reading()
    reader = asyncio.StreamReader(limit=limit_bytes)
    protocol = EndsByItself(reader)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    if early := bytes(getattr(former, "_message_tail", b"")):  # what came together with the request
        reader.feed_data(early)
    transport.resume_reading()
    try:
        yield reader, writer
    finally:
        writer.close()
        former.connection_lost(None)  # aiohttp counts its connections
