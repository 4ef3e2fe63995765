"""Responses that last: bounded in number, and ended when the server stops rather than when their clients go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from aiohttp import web

from orlop.api.problems import Problem

STREAMS_MAX: Final = 500

STREAMS: Final = web.AppKey("streams", set[asyncio.Task[object]])


@asynccontextmanager
async def streaming(request: web.Request) -> AsyncIterator[None]:
    """While a response lasts. Raises Problem (503) when there are too many already."""
    streams = request.app[STREAMS]
    if len(streams) >= STREAMS_MAX:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, f"{STREAMS_MAX} streams are open already", headers={"Retry-After": "5"}
        )
    current = asyncio.current_task()
    assert current is not None, "a handler runs in a task"
    streams.add(current)
    try:
        yield
    finally:
        streams.discard(current)


async def end_streams(application: web.Application) -> None:
    """At shutdown: clients of streams reconnect elsewhere, and must not hold up the stop."""
    streams = application[STREAMS]
    for stream in tuple(streams):
        stream.cancel()


def client_is_gone(request: web.Request) -> bool:
    """Has the connection been closed?"""
    return request.transport is None or request.transport.is_closing()
