"""Connections to nodes' engines, as plugins' routes get them."""

from __future__ import annotations

from typing import Final, Protocol

from orlop.agent.streams import StreamEnd

#: The most that one read gives.
READ_BYTES_MAX: Final = 256 * 1024


class EngineConnection(Protocol):
    """Bytes to and from a node's engine; each direction ends by itself (half-close)."""

    async def read(self) -> bytes:
        """What has come, at most READ_BYTES_MAX; empty at the end of this direction. Raises ConnectionError, also when
        the engine or its agent went away."""

    async def write(self, data: bytes) -> None:
        """Returns when there is room for more. Raises ConnectionError."""

    async def write_eof(self) -> None:
        """No more will be written; reading goes on. Raises ConnectionError."""

    async def close(self) -> None:
        """Ends both directions at once, whoever still reads or writes. Never raises."""


class TunnelledConnection:
    """One through an agent elsewhere; see `EngineConnection` for the methods. stream: the agent has accepted."""

    def __init__(self, stream: StreamEnd) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    async def read(self) -> bytes:
        """See `EngineConnection`. Raises StreamClosed."""
        if not self._rest:
            frame = await self._stream.receive() or b""
            if len(frame) <= READ_BYTES_MAX:
                return frame
            self._rest = memoryview(frame)
        data, self._rest = self._rest[:READ_BYTES_MAX], self._rest[READ_BYTES_MAX:]
        return bytes(data)

    async def write(self, data: bytes) -> None:
        """See `EngineConnection`. Raises StreamClosed."""
        await self._stream.send(data)

    async def write_eof(self) -> None:
        """See `EngineConnection`. Raises StreamClosed."""
        await self._stream.send_end()

    async def close(self) -> None:
        """See `EngineConnection`."""
        await self._stream.abort()
