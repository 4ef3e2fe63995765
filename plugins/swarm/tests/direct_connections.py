"""Connections to an engine's own socket, for an engine that can be reached from here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from urllib.parse import urlsplit

from orlop_swarm.engines.interface import Connection, Dial, EngineUnavailable

READ_BYTES_MAX: Final = 256 * 1024
CONNECT_WITHIN_S: Final = 5.0
DEFAULT_PORT: Final = 2375


class SocketConnection:
    """See `Connection`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See `Connection`."""
        return await self._reader.read(READ_BYTES_MAX)

    async def write(self, data: bytes) -> None:
        """See `Connection`."""
        if self._writer.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        """See `Connection`."""
        if self._writer.is_closing():
            raise ConnectionResetError("the connection is closed")
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def close(self) -> None:
        """See `Connection`."""
        self._writer.transport.abort()


def dial_directly(node: str, url: str) -> Dial:
    """For `unix:///path` and `tcp://host:port`. node: its name, for errors."""
    parts = urlsplit(url)

    async def dial() -> Connection:
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                if parts.scheme == "unix":
                    return SocketConnection(*await asyncio.open_unix_connection(parts.path, limit=READ_BYTES_MAX))
                port = parts.port or DEFAULT_PORT
                return SocketConnection(*await asyncio.open_connection(parts.hostname, port, limit=READ_BYTES_MAX))
        except (OSError, TimeoutError) as error:
            raise EngineUnavailable(node, str(error) or "no answer") from error

    return dial
