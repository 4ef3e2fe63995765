"""A client's connection becomes raw bytes between it and an engine.

aiohttp's own protocol closes a connection when the client has no more to say, and what the engine still says would be
lost. So the connection gets another protocol, which lets each direction end by itself.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from orlop_swarm.engines.interface import Connection

PIECE_BYTES: Final = 262_144


async def hand_over(request: web.Request, head: bytes, connection: Connection) -> web.StreamResponse:
    """Writes the head, then moves bytes both ways until the engine's direction has ended."""
    transport = request.transport
    if transport is None:
        await connection.close()
        return web.Response()
    former = transport.get_protocol()
    transport.pause_reading()
    reader = asyncio.StreamReader(limit=PIECE_BYTES)
    protocol = _EndsByItself(reader)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    if early := bytes(getattr(former, "_message_tail", b"")):  # what came together with the request
        reader.feed_data(early)
    transport.resume_reading()
    writer.write(head)
    incoming = asyncio.create_task(_to_engine(reader, connection))
    try:
        await _to_client(connection, writer)
    finally:
        incoming.cancel()
        await connection.close()
        writer.close()
        former.connection_lost(None)  # aiohttp counts its connections
    return web.Response()


class _EndsByItself(asyncio.StreamReaderProtocol):
    """asyncio's own takes one direction's end for both's where there is TLS; the server's TLS can do better."""

    def eof_received(self) -> bool:
        super().eof_received()
        return True


async def _to_engine(reader: asyncio.StreamReader, connection: Connection) -> None:
    try:
        while piece := await reader.read(PIECE_BYTES):
            await connection.write(piece)
        await connection.write_eof()
    except OSError:
        await connection.close()


async def _to_client(connection: Connection, writer: asyncio.StreamWriter) -> None:
    """An engine that goes away is no end in good order: the client's connection breaks off, too."""
    try:
        while piece := await connection.read():
            writer.write(piece)
            await writer.drain()
    except OSError:
        writer.transport.abort()
