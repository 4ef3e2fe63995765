"""Moves a command's input and output over a stream, in frames whose first byte names the channel."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from orlop.agent.runtimes.interface import Execution
from orlop.agent.streams import StreamClosed, StreamEnd, frames
from orlop.model.streams import CHUNK_BYTES, Accepted, Channel, encode

#: Whoever sends nothing, and is not read from because the command takes no input, would not notice that the other end
#: is gone.
SHOW_LIFE_S: Final = 10.0
TERMINAL_MAX: Final = 10_000


async def run_command(stream: StreamEnd, execution: Execution) -> None:
    """Until the command has ended, or the other end is gone, which ends the command. Raises StreamClosed."""
    try:
        await stream.send(encode(Accepted()))
        giving = asyncio.ensure_future(_give_input(stream, execution))
        taking = asyncio.ensure_future(_take_output(stream, execution))
        living = asyncio.ensure_future(_show_life(stream))
        try:
            await asyncio.wait({giving, taking, living}, return_when=asyncio.FIRST_COMPLETED)
            for task in (giving, taking, living):
                if task.done():
                    task.result()
        finally:
            for task in (giving, taking, living):
                task.cancel()
            await asyncio.wait({giving, taking, living})
    finally:
        await execution.close()


async def _give_input(stream: StreamEnd, execution: Execution) -> None:
    """Until the other end is gone."""
    async for frame in frames(stream):
        channel, data = frame[0], frame[1:]
        if channel == Channel.INPUT and data:
            await execution.write(data)
        elif channel == Channel.INPUT:
            await execution.end_input()
        elif channel == Channel.RESIZE:
            await _resize(execution, data)
    await execution.end_input()
    await stream.gone()


async def _resize(execution: Execution, data: bytes) -> None:
    try:
        size: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    rows, columns = (size.get(name) if isinstance(size, dict) else None for name in ("rows", "columns"))
    if type(rows) is int and type(columns) is int and 0 < rows < TERMINAL_MAX and 0 < columns < TERMINAL_MAX:
        await execution.resize(rows, columns)


async def _take_output(stream: StreamEnd, execution: Execution) -> None:
    """To its end, and how it ended."""
    try:
        async for kind, data in execution.output():
            for start in range(0, len(data), CHUNK_BYTES):
                await stream.send(bytes([kind]) + data[start : start + CHUNK_BYTES])
    except StreamClosed:
        raise
    except OSError as error:
        await stream.send(bytes([Channel.FAILED]) + orjson.dumps({"error": str(error)}))
        return
    code = await execution.result()
    await stream.send(bytes([Channel.ENDED]) + orjson.dumps({"code": code}))


async def _show_life(stream: StreamEnd) -> None:
    while True:
        await asyncio.sleep(SHOW_LIFE_S)
        await stream.send(bytes([Channel.OUTPUT]))
