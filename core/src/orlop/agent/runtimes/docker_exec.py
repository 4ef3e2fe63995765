"""Commands in a container that somebody talks to; see `Execution`.

The Engine API makes the command with an ordinary call and starts it with one whose connection then carries raw bytes
both ways. Without a terminal the output comes in frames: a byte for the stream, three zeros, four bytes of length.

The engine has no call to end a command. One that nobody talks to any more sees the end of its input, and goes on if
it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from collections.abc import AsyncIterator
from typing import Final

from orlop.agent.runtimes.docker_access import Access
from orlop.agent.runtimes.docker_connection import CONNECT_TIMEOUT_S, connect
from orlop.agent.runtimes.docker_engine import EXIT_CODE_POLL_S, EXIT_CODE_WITHIN_S
from orlop.agent.runtimes.docker_errors import EngineLost, EngineRefused
from orlop.agent.runtimes.interface import Output, UnknownTask
from orlop.model.streams import CHUNK_BYTES, CommandRequest

HEAD_BYTES_MAX: Final = 64 * 1024
_FRAME: Final = struct.Struct("!BxxxL")


async def execute_in(access: Access, url: str, container: str, request: CommandRequest) -> ContainerExecution:
    """Starts it. Raises UnknownTask (the container is gone), EngineLost, ValueError."""
    if not access.connected.is_set():
        raise EngineLost(access.unavailable)
    control = access.pools.control
    try:
        made = await access.call(
            control, "exec_create", container, list(request.words), stdin=True, tty=request.terminal
        )
    except EngineRefused as error:
        raise UnknownTask(str(error)) from error
    reader, writer = await asyncio.open_connection(sock=await connect(url), limit=HEAD_BYTES_MAX)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await _start(reader, writer, f"/v{access.client.api_version}/exec/{made['Id']}/start", request)
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
        writer.close()
        raise EngineLost(f"the Docker Engine does not start the command: {error or 'no answer'}") from error
    except BaseException:
        writer.close()
        raise
    execution = ContainerExecution(access, made["Id"], reader, writer, framed=not request.terminal)
    if request.terminal:
        await execution.resize(request.rows, request.columns)
    return execution


async def _start(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, request: CommandRequest
) -> None:
    """Raises ValueError with the engine's own text."""
    body = json.dumps({"Detach": False, "Tty": request.terminal}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nConnection: Upgrade\r\n"
        f"Upgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    status = answer.split(b" ", 2)[1:2]
    if status != [b"101"]:
        text = (await reader.read(HEAD_BYTES_MAX)).decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text[text.index("{") : text.rindex("}") + 1])["message"]
        raise ValueError(f"the Docker Engine refuses the command: {text.strip() or answer.decode(errors='replace')}")


class ContainerExecution:
    """See the module, and `Execution` for the methods. framed: is the output in frames?"""

    def __init__(
        self,
        access: Access,
        execution: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        framed: bool,
    ) -> None:
        self._access = access
        self._id = execution
        self._reader = reader
        self._writer = writer
        self._framed = framed

    async def write(self, data: bytes) -> None:
        """See `Execution`."""
        with contextlib.suppress(OSError, RuntimeError):  # it has ended, or its input has
            self._writer.write(data)
            await self._writer.drain()

    async def end_input(self) -> None:
        """See `Execution`."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write_eof()

    async def output(self) -> AsyncIterator[tuple[Output, bytes]]:
        """See `Execution`. Raises EngineLost when the engine goes away in the middle."""
        try:
            if not self._framed:
                while data := await self._reader.read(CHUNK_BYTES):
                    yield Output.OUTPUT, data
                return
            while head := await self._head():
                stream, left = _FRAME.unpack(head)
                kind = Output.ERROR if stream == Output.ERROR else Output.OUTPUT
                while left:
                    data = await self._reader.read(min(left, CHUNK_BYTES))
                    if not data:
                        raise EngineLost("the Docker Engine broke off in the middle of the output")
                    left -= len(data)
                    yield kind, data
        except OSError as error:
            raise EngineLost(f"the Docker Engine went away: {error}") from error

    async def _head(self) -> bytes:
        """Empty at the end."""
        try:
            return await self._reader.readexactly(_FRAME.size)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise EngineLost("the Docker Engine broke off in the middle of the output") from None
            return b""

    async def result(self) -> int | None:
        """See `Execution`."""
        deadline = time.monotonic() + EXIT_CODE_WITHIN_S
        while time.monotonic() < deadline:
            try:
                inspected = await self._access.call(self._access.pools.control, "exec_inspect", self._id)
            except (EngineLost, EngineRefused):
                return None
            if inspected["ExitCode"] is not None and not inspected["Running"]:
                return int(inspected["ExitCode"])
            await asyncio.sleep(EXIT_CODE_POLL_S)
        return None

    async def resize(self, rows: int, columns: int) -> None:
        """See `Execution`."""
        if not self._framed:
            with contextlib.suppress(EngineLost, EngineRefused):  # it has just ended
                await self._access.call(self._access.pools.control, "exec_resize", self._id, rows, columns)

    async def close(self) -> None:
        """See `Execution`."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
