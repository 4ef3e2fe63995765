"""Moves bytes between a stream and the node's engine, until both have had enough or one of them is gone.

What an engine does not take cannot be read from the stream either, so a server that is gone would not be noticed
meanwhile: its end of the connection lies behind what is not read. So the connection itself is looked at then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from orlop.agent.runtimes.interface import Connection, Runtime
from orlop.agent.streams import StreamClosed, StreamEnd, frames
from orlop.model.streams import DOCKER, Accepted, encode

#: How often a connection is looked at while an engine takes nothing.
LOOK_S: Final = 2.0


async def connect_engine(runtimes: Mapping[str, Runtime]) -> Connection:
    """A connection to this node's engine. Raises LookupError (it has none), ConnectionError, ValueError."""
    runtime = runtimes.get(DOCKER)
    if runtime is None:
        raise LookupError(f"this node has no {DOCKER} runtime")
    if not hasattr(runtime, "connect_engine"):
        raise ValueError(f"the {DOCKER} runtime of this node gives no connections to its engine")
    connection: Connection = await runtime.connect_engine()
    return connection


async def relay(stream: StreamEnd, engine: Connection) -> None:
    """Until the other end is gone. Raises StreamClosed, also when the engine is gone."""
    try:
        await stream.send(encode(Accepted()))
        taking = _Taking(stream, engine)
        there = asyncio.ensure_future(taking.run())
        back = asyncio.ensure_future(_give(stream, engine))
        watch = asyncio.ensure_future(taking.until_cut())
        try:
            await asyncio.wait({there, back, watch}, return_when=asyncio.FIRST_COMPLETED)
            if back.done():
                back.result()
                await asyncio.wait({there, watch}, return_when=asyncio.FIRST_COMPLETED)
            for task in (there, watch):
                if task.done():
                    task.result()
        except StreamClosed:
            raise
        except OSError as error:
            await stream.close(str(error))
            raise StreamClosed(str(error)) from error
        finally:
            for task in (there, back, watch):
                task.cancel()
            await asyncio.wait({there, back, watch})
    finally:
        await engine.close()


async def _give(stream: StreamEnd, engine: Connection) -> None:
    while data := await engine.read():
        await stream.send(data)
    await stream.send_end()


class _Taking:
    """What comes over the stream, and goes to the engine."""

    def __init__(self, stream: StreamEnd, engine: Connection) -> None:
        self._stream = stream
        self._engine = engine
        self._giving = False
        self._refused = False

    async def run(self) -> None:
        """Until the other end is gone."""
        async for frame in frames(self._stream):
            await self._hand_on(self._engine.write, frame)
        await self._hand_on(self._engine.write_eof)
        await self._stream.gone()

    async def _hand_on(self, call: Callable[..., Awaitable[None]], *arguments: bytes) -> None:
        """An engine that takes no more may still have something to say: the rest is dropped."""
        if self._refused:
            return
        self._giving = True
        try:
            await call(*arguments)
        except OSError:
            self._refused = True
        self._giving = False

    async def until_cut(self) -> None:
        """Until the other end is found to be gone while the engine takes nothing."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._giving and self._stream.is_cut():
                return
