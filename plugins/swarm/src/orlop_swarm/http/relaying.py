"""Handing a request on to an engine, and its answer back, piece by piece as they come.

What the engine says goes to the client as it is: status, headers, errors. When the engine goes away in the middle of
an answer, the client's connection is cut: an end in good order would pass a part off as the whole. A client that goes
away cancels its handler, and the engine sees its own client gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

from aiohttp import ClientPayloadError, hdrs, web
from multidict import CIMultiDict

from orlop_swarm.engines.interface import Engine, EngineUnavailable, Response
from orlop_swarm.http.hijacking import hand_over
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import VERSION

#: Of the connection, not of the request; the framing is each connection's own.
HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
#: Said anew to the engine, or meant for the pool: who the client is is no engine's business.
NOT_HANDED_ON: Final = HOP_BY_HOP | {"content-length", "host", "expect", "authorization", "cookie"}
OURS: Final = ("orlop-", "x-orlop-")
#: A body up to this is read first and handed on whole, twice if need be.
SMALL_BODY_BYTES: Final = 2**20


#: So much of a body is still read when the answer is an error, and for so long: a client that is cut off while it
#: writes may not see the answer.
DRAINED_BYTES: Final = 262_144
DRAINED_WITHIN_S: Final = 1.0


class EngineAnswer(web.StreamResponse):
    """untyped: the engine has given it no `Content-Type`, and it is to have none."""

    untyped: bool = False


def is_small(request: web.Request) -> bool:
    """Has it no body, or one whose length is known to be small?"""
    if not request.body_exists:
        return True
    return request.content_length is not None and request.content_length <= SMALL_BODY_BYTES


async def body_of(request: web.Request) -> bytes | AsyncIterator[bytes] | None:
    """A small body whole, any other as it comes. Raises Problem (400)."""
    if not request.body_exists:
        return None
    if is_small(request):
        return await small_body(request)
    return _pieces(request)


async def small_body(request: web.Request) -> bytes:
    """The whole body. Raises Problem (400, 413)."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Problem(413, "http: request body too large") from None
    except (ClientPayloadError, web.RequestPayloadError, ValueError) as error:
        raise Problem(400, f"the request's body cannot be read: {error}") from None


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    async for piece in request.content.iter_any():
        yield piece


def headers_of(request: web.Request, *, upgrade: bool = False) -> CIMultiDict[str]:
    """What an engine is told of the client's headers. upgrade: that they ask for the connection, too."""
    named = {name.strip().lower() for value in request.headers.getall(hdrs.CONNECTION, []) for name in value.split(",")}
    dropped = NOT_HANDED_ON | named
    if upgrade:
        dropped = dropped - {"connection", "upgrade"}
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        lowered = name.lower()
        if lowered not in dropped and not lowered.startswith(OURS):
            kept.add(name, value)
    return kept


async def ask(
    request: web.Request,
    engine: Engine,
    path: str,
    *,
    query: str | None = None,
    body: bytes | AsyncIterator[bytes] | None = None,
) -> Response:
    """The engine's answer to the client's request. path: the engine's, quoted. query, body: instead of the client's.

    Raises EngineUnavailable, Problem (400).
    """
    return await engine.request(
        request.method,
        path,
        query=request.rel_url.raw_query_string if query is None else query,
        headers=headers_of(request),
        body=await body_of(request) if body is None else body or None,
        version=request[VERSION],
    )


async def relay(
    request: web.Request,
    engine: Engine,
    path: str,
    *,
    query: str | None = None,
    body: bytes | AsyncIterator[bytes] | None = None,
) -> web.StreamResponse:
    """Has the engine answer the request. Raises as `ask` does."""
    return await pass_on(request, await ask(request, engine, path, query=query, body=body))


async def pass_on(
    request: web.Request,
    response: Response,
    *,
    before_end: Callable[[], Awaitable[None]] | None = None,
    last: bool = False,
) -> web.StreamResponse:
    """The engine's answer, to the client.

    before_end: what is to have happened when the client sees the end of a short answer that was a success. last: the
    connection ends with it.
    """
    try:
        answer = begun(response)
        if last:
            answer.force_close()
        if response.status >= 400:
            await _drain(request)
        await answer.prepare(request)
        if request.method == hdrs.METH_HEAD:
            return answer
        if before_end is not None and response.status < 300:
            body = await response.read()
            await before_end()
            await answer.write(body)
        else:
            async for piece in response.pieces():
                await answer.write(piece)
    except EngineUnavailable:
        cut(request)
    finally:
        await response.close()
    return answer


async def _drain(request: web.Request) -> None:
    left = DRAINED_BYTES
    with contextlib.suppress(TimeoutError, RuntimeError, ClientPayloadError, web.RequestPayloadError):
        async with asyncio.timeout(DRAINED_WITHIN_S):
            while left > 0 and not request.content.at_eof():
                left -= len(await request.content.readany())


def begun(response: Response, without: Iterable[str] = ()) -> web.StreamResponse:
    """An answer with the engine's head. without: lower-case names of headers that it does not have."""
    answer = EngineAnswer(status=response.status, reason=response.reason or None)
    dropped = HOP_BY_HOP.union(without)
    for name, value in response.headers.items():
        if name.lower() not in dropped:
            answer.headers.add(name, value)
    answer.untyped = hdrs.CONTENT_TYPE not in answer.headers
    return answer


def cut(request: web.Request) -> None:
    """The client is to see that this is not the end of its answer."""
    if request.transport is not None:
        if request.version >= (1, 1):
            request.transport.close()
        else:
            # There the end of the connection is the end of the answer.
            request.transport.abort()


async def whole(response: Response) -> web.Response:
    """A short answer of an engine, with its whole body. Raises EngineUnavailable."""
    try:
        body = await response.read()
    finally:
        await response.close()
    answer = web.Response(status=response.status, reason=response.reason or None, body=body)
    for name, value in response.headers.items():
        if name.lower() not in HOP_BY_HOP and name.lower() != "content-length":
            answer.headers[name] = value
    return answer


def content(answer: web.Response) -> bytes:
    """The body of what `whole` returned."""
    assert isinstance(answer.body, bytes), "it was read whole"
    return answer.body


async def ask_each(
    request: web.Request, engines: Sequence[Engine], path: str, queries: Sequence[str], within_s: float
) -> list[web.Response | None]:
    """The short answers of several engines, each asked with its own query; None of those that cannot be reached, or
    take longer than so many seconds."""

    async def one(engine: Engine, query: str) -> web.Response | None:
        try:
            async with asyncio.timeout(within_s):
                return await whole(await ask(request, engine, path, query=query, body=b""))
        except (EngineUnavailable, TimeoutError):
            return None

    return await asyncio.gather(*(one(*pair) for pair in zip(engines, queries, strict=True)))


async def upgrade(request: web.Request, engine: Engine, path: str) -> web.StreamResponse:
    """The client's connection becomes one to the engine, unless the engine refuses. Raises EngineUnavailable."""
    upgraded = await engine.upgrade(
        request.method,
        path,
        query=request.rel_url.raw_query_string,
        headers=headers_of(request, upgrade=True),
        body=await small_body(request),
        version=request[VERSION],
    )
    if upgraded.connection is None:
        assert upgraded.response is not None, "it is one or the other"
        # For aiohttp the connection is no HTTP any more.
        return await pass_on(request, upgraded.response, last=True)
    try:
        return await hand_over(request, upgraded.head, upgraded.connection)
    except asyncio.CancelledError:
        await upgraded.connection.close()
        raise
