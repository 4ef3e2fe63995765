"""Clients that hold connections: they are closed after a while, and there are only so many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from orlop.api import connections
from orlop.api.runner import OperatorRunner

DEADLINE_S = 30.0
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n"
WHOLE = HEAD + b"Connection: close\r\n\r\n" + b"x" * 10

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Site:
    """A server whose one handler reads bodies."""

    def __init__(self) -> None:
        self.port = 0
        self.cancelled = asyncio.Event()
        self.began = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.began.set()
        try:
            return web.Response(body=await request.read())
        except web.RequestPayloadError:
            return web.Response(status=400)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def connect(self, sent: bytes) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        writer.write(sent)
        return reader, writer

    async def answer(self, sent: bytes) -> bytes:
        """All that comes until the connection is closed."""
        reader, _ = await self.connect(sent)
        return await asyncio.wait_for(reader.read(), DEADLINE_S)

    async def until_answered(self, beginning: bytes) -> None:
        """Asks until the answer is so."""
        async with asyncio.timeout(DEADLINE_S):
            while not (await self.answer(WHOLE)).startswith(beginning):
                pass

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Site]:
    site = Site()
    application = web.Application()
    application.router.add_post("/", site.handle)
    runner = OperatorRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        site.port = runner.addresses[0][1]
        yield site
    finally:
        site.close()
        await runner.cleanup()


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST / HT", HEAD])
async def test_a_request_that_does_not_become_whole_is_not_waited_for(sent: bytes) -> None:
    async with running(keepalive_timeout=0.2) as site:
        assert await site.answer(sent) == b""


async def test_a_head_that_comes_drop_by_drop_is_not_waited_for() -> None:
    async with running(keepalive_timeout=0.3) as site, asyncio.timeout(DEADLINE_S):
        reader, writer = await site.connect(HEAD)
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            writer.write(b"X-A: b\r\n")
            await asyncio.wait((ended,), timeout=0.02)
        with contextlib.suppress(ConnectionError):
            assert await ended == b""


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_S", 0.2)
    async with running() as site:
        reader, _ = await site.connect(HEAD + b"\r\nxxx")
        await asyncio.wait_for(site.began.wait(), DEADLINE_S)
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        await asyncio.wait_for(site.cancelled.wait(), DEADLINE_S)


async def test_one_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as site:
        others = len(connections._open)
        monkeypatch.setattr(connections, "connections_max", lambda: others + 3)
        held = [await site.connect(HEAD) for _ in range(3)]

        await site.until_answered(b"HTTP/1.1 503 ")
        head, _, body = (await site.answer(b"")).partition(b"\r\n\r\n")
        assert b"\r\nRetry-After: " in head
        assert json.loads(body) == {"error": "too many connections are open already"}
        held[0][1].close()
        await site.until_answered(b"HTTP/1.1 200 ")


def test_the_bound_leaves_files_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, expected in ((1_024, 341), (20_000, 4_096), (connections.resource.RLIM_INFINITY, 4_096)):
        monkeypatch.setattr(connections.resource, "getrlimit", lambda _, files=files: (files, files))
        assert connections.connections_max() == expected


async def test_a_body_that_is_not_what_it_says_is_nothing_for_the_servers_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    packed = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
    async with running() as site:
        assert (await site.answer(packed)).split(b" ")[1] == b"400"
    assert not caplog.records
