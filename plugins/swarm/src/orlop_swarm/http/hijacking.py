"""A client's connection becomes raw bytes between it and an engine."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from orlop.hijacking import taken_over
from orlop_swarm.engines.interface import Connection

PIECE_BYTES: Final = 262_144


async def hand_over(request: web.Request, head: bytes, connection: Connection) -> web.StreamResponse:
    """Writes the head, then moves bytes both ways until the engine's direction has ended."""
    try:
        async with taken_over(request, PIECE_BYTES) as (reader, writer):
            writer.write(head)
            incoming = asyncio.create_task(_to_engine(reader, connection))
            try:
                await _to_client(connection, writer)
            finally:
                incoming.cancel()
    except ConnectionResetError:  # the client is gone, and nobody is to be answered
        pass
    finally:
        await connection.close()
    return web.Response()


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
