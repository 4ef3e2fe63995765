"""Connections to nodes' engines, as plugins' routes get them."""

from __future__ import annotations

from orlop.agent.runtimes.interface import READ_BYTES_MAX
from orlop.agent.streams import StreamEnd


class TunnelledConnection:
    """One through an agent elsewhere; see `Connection` for the methods. stream: the agent has accepted."""

    def __init__(self, stream: StreamEnd) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    async def read(self) -> bytes:
        """See `Connection`. Raises StreamClosed."""
        if not self._rest:
            frame = await self._stream.receive() or b""
            if len(frame) <= READ_BYTES_MAX:
                return frame
            self._rest = memoryview(frame)
        data, self._rest = self._rest[:READ_BYTES_MAX], self._rest[READ_BYTES_MAX:]
        return bytes(data)

    async def write(self, data: bytes) -> None:
        """See `Connection`. Raises StreamClosed."""
        await self._stream.send(data)

    async def write_eof(self) -> None:
        """See `Connection`. Raises StreamClosed."""
        await self._stream.send_end()

    async def close(self) -> None:
        """See `Connection`."""
        await self._stream.abort()
