"""When an engine's stream of output is closed: a real engine shows a mistake in it once in hundreds of times."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from orlop.agent.runtimes.daemon_threads import DaemonThreads
from orlop.agent.runtimes.docker_access import Access
from orlop.agent.runtimes.interface import RuntimeContext

WITHIN_S = 30.0


class Response:
    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed

    def close(self) -> None:
        self._closed.set()


class Stream:
    """docker-py's, of one line. Then a read waits until it is cut, and has something to do until `tidied`."""

    def __init__(self) -> None:
        self.waiting, self.cut, self.tidied, self.closed = (threading.Event() for _ in range(4))
        self._lines = [b"a line\n"]
        self._response = Response(self.closed)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._lines:
            return self._lines.pop()
        self.waiting.set()
        assert self.cut.wait(WITHIN_S)
        assert self.tidied.wait(WITHIN_S)
        raise StopIteration

    def close(self) -> None:
        self.cut.set()


@contextlib.asynccontextmanager
async def reading(tmp_path: Path) -> AsyncIterator[tuple[Access, Stream, AsyncGenerator[bytes, None]]]:
    access, stream = Access(RuntimeContext(cluster_id="c1", node_id="n1", data=tmp_path, tasks=tmp_path)), Stream()

    class Client:
        def logs(self, *_: Any, **__: Any) -> Stream:
            return stream

    access.client = Client()
    access.pools.log = DaemonThreads(2, "test")  # one that reads, and one for all else
    output = access.logs("a container", "stdout", follow=True, tail=None)
    assert await anext(output) == b"a line\n"
    yield access, stream, output
    await output.aclose()
    stream.tidied.set()
    access.pools.close()


async def test_not_while_it_is_read(tmp_path: Path) -> None:
    async with reading(tmp_path) as (access, stream, output):
        next_line = asyncio.ensure_future(anext(output))
        assert await asyncio.to_thread(stream.waiting.wait, WITHIN_S)
        next_line.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await next_line
        assert stream.cut.is_set()
        await access.in_thread(access.pools.log, int)  # after what was submitted before
        assert not stream.closed.is_set()
        stream.tidied.set()
        assert await asyncio.to_thread(stream.closed.wait, WITHIN_S)


async def test_at_once_when_nobody_reads(tmp_path: Path) -> None:
    async with reading(tmp_path) as (_, stream, output):
        await output.aclose()
        assert await asyncio.to_thread(stream.closed.wait, WITHIN_S)


async def test_at_its_end(tmp_path: Path) -> None:
    async with reading(tmp_path) as (_, stream, output):
        stream.cut.set()
        stream.tidied.set()
        assert [line async for line in output] == []
        assert await asyncio.to_thread(stream.closed.wait, WITHIN_S)
