"""What an agent does on a stream: waits for the request, answers, and moves bytes until either side has had enough.

The agent never closes first after it has sent everything: closing may overtake what a slow reader has not read yet.
It says that no more will come, and waits for the other end to go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Final

from orlop.agent.command_service import run_command
from orlop.agent.engine_service import connect_engine, relay
from orlop.agent.runtimes.interface import Runtime
from orlop.agent.streams import StreamClosed, StreamEnd
from orlop.model.streams import (
    Accepted,
    EngineRequest,
    Fault,
    OutputRequest,
    Rejected,
    decode_request,
    encode,
)
from orlop.model.wire import WireError

log = logging.getLogger(__name__)

#: How long the first output may take before a request is accepted without knowing whether there is any.
FIRST_OUTPUT_S: Final = 1.0


async def serve_stream(stream: StreamEnd, runtimes: Mapping[str, Runtime]) -> None:
    """One stream, from its request to its end. Never raises for the stream's or a runtime's fault."""
    try:
        first = await stream.receive()
        if first is None:
            return
        answer = await _answer(stream, first, runtimes)
        if answer is not None:
            await stream.send(encode(answer))
        await stream.send_end()
        await _until_gone(stream)
    except StreamClosed as error:
        log.debug("a stream has ended: %s", error)
    except Exception:
        log.exception("a stream failed")
    finally:
        await stream.close()


async def _answer(stream: StreamEnd, first: bytes, runtimes: Mapping[str, Runtime]) -> Rejected | None:
    """None when the request was accepted and has been done."""
    try:
        request = decode_request(first)
    except WireError as error:
        log.warning("a request on a stream is refused: %s", error)
        return Rejected(fault=Fault.INVALID, reason=str(error))
    runtime = runtimes.get(request.runtime)
    if runtime is None:
        return Rejected(fault=Fault.NOT_FOUND, reason=f"this node has no {request.runtime} runtime")
    try:
        if isinstance(request, OutputRequest):
            await _output(stream, request, runtime)
        elif isinstance(request, EngineRequest):
            await relay(stream, await connect_engine(runtimes))
        elif hasattr(runtime, "execute"):
            await run_command(stream, await runtime.execute(request))
        else:
            return Rejected(fault=Fault.INVALID, reason=f"the {request.runtime} runtime runs no commands")
    except StreamClosed:
        raise
    except LookupError as error:
        return Rejected(fault=Fault.NOT_FOUND, reason=str(error.args[0]) if error.args else "there is none")
    except (OSError, ValueError) as error:
        fault = Fault.INVALID if isinstance(error, ValueError) else Fault.UNAVAILABLE
        return Rejected(fault=fault, reason=str(error))
    return None


async def _until_gone(stream: StreamEnd) -> None:
    """Drops what comes, until the other end has ended its direction or is gone."""
    with contextlib.suppress(StreamClosed):
        while await stream.receive() is not None:
            continue


async def _output(stream: StreamEnd, request: OutputRequest, runtime: Runtime) -> None:
    """Raises LookupError, OSError before it has accepted; after that an error cuts the stream."""
    pieces = runtime.logs(request.task, request.output, follow=request.follow, tail=request.tail)
    first = asyncio.ensure_future(_next(pieces))
    gone = asyncio.ensure_future(_until_gone(stream))
    try:
        await asyncio.wait([first], timeout=FIRST_OUTPUT_S)
        if first.done():
            first.result()
        await stream.send(encode(Accepted()))
        pump = asyncio.ensure_future(_pump(first, pieces, stream))
        try:
            await asyncio.wait([pump, gone], return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                _raise_as_closed(pump)
        finally:
            await _cancelled(pump)
    finally:
        await _cancelled(gone)
        await _cancelled(first)
        if (close := getattr(pieces, "aclose", None)) is not None:
            await close()


def _raise_as_closed(pump: asyncio.Future[None]) -> None:
    """What was accepted cannot be rejected any more."""
    try:
        pump.result()
    except (LookupError, OSError) as error:
        raise StreamClosed(str(error)) from error


async def _pump(first: asyncio.Future[bytes | None], pieces: AsyncIterator[bytes], stream: StreamEnd) -> None:
    piece = await first
    while piece is not None:
        await stream.send(piece)
        piece = await _next(pieces)


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


async def _cancelled(work: asyncio.Future[None] | asyncio.Future[bytes | None]) -> None:
    work.cancel()
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()
