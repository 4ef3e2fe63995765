"""One request to many engines whose answers are streams of progress, and one such stream back to the client.

The client gets an answer as soon as one engine begins to work. While none has, a refusal is still an ordinary one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from aiohttp import ClientPayloadError, web

from orlop_swarm.engines.interface import Engine, EngineUnavailable, Response
from orlop_swarm.http import relaying
from orlop_swarm.http.calling import answer_of, refuse
from orlop_swarm.http.services import VERSION
from orlop_swarm.merging.answers import Answer, refusal
from orlop_swarm.merging.progress import Lines, Message, Progress, encoded

MESSAGES_WAITING_MAX: Final = 1_000
PIECES_WAITING_MAX: Final = 4

_LOG: Final = logging.getLogger(__name__)

#: What an engine sends, from where it is read.
Source = Callable[[Engine], "AsyncIterator[bytes] | None"]


class Copied:
    """A body that goes to several engines at once, as fast as the slowest takes it. One that leaves is not waited for.

    source: is read while `pump` runs.
    """

    def __init__(self, source: AsyncIterator[bytes], readers: Iterable[str]) -> None:
        self._source = source
        self._queues: dict[str, asyncio.Queue[bytes | Exception | None]] = {
            reader: asyncio.Queue(PIECES_WAITING_MAX) for reader in readers
        }

    async def pump(self) -> None:
        """Returns when the source has ended, or nobody reads it any longer."""
        end: Exception | None = None
        try:
            async for piece in self._source:
                await self._put(piece)
                if not self._queues:
                    return
        except Exception as error:  # noqa: BLE001  whatever it is, the readers are to see that this is no end
            end = error
        await self._put(end)

    async def _put(self, item: bytes | Exception | None) -> None:
        for reader in list(self._queues):
            queue = self._queues.get(reader)
            if queue is not None:
                await queue.put(item)

    async def read_by(self, reader: str) -> AsyncIterator[bytes]:
        """Raises what the source has raised."""
        queue = self._queues[reader]
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def leave(self, reader: str) -> None:
        """Wants no more of it."""
        queue = self._queues.pop(reader, None)
        if queue is not None:
            with contextlib.suppress(asyncio.QueueEmpty):
                while True:
                    queue.get_nowait()


class Broadcast:
    """The streams of several engines. path: theirs. query: encoded. body: of one engine, for those that have one."""

    def __init__(
        self,
        request: web.Request,
        asked: Sequence[Engine],
        path: str,
        *,
        query: str = "",
        body: Source = lambda _: None,
        leave: Callable[[Engine], None] = lambda _: None,
    ) -> None:
        self._request = request
        self._asked = asked
        self._path, self._query = path, query
        self._body, self._leave = body, leave
        self._news: asyncio.Queue[tuple[str, Message | Answer | None]] = asyncio.Queue(MESSAGES_WAITING_MAX)
        self.progress = Progress(engine.node.name for engine in asked)
        self.outcomes: list[Answer] = []

    async def messages(self) -> AsyncGenerator[list[Message], None]:
        """What the client is to be told, the first time when an engine has begun. Raises Problem when all refuse."""
        tasks = [asyncio.create_task(self._follow(engine)) for engine in self._asked]
        begun = False
        try:
            while len(self.outcomes) < len(self._asked):
                node, news = await self._news.get()
                if news is None:
                    begun = True
                    yield []
                elif isinstance(news, Answer):
                    self.outcomes.append(news)
                    told = self.progress.ended(node) if news.good else self.progress.failed(node, str(news.content))
                    if begun:
                        yield told
                else:
                    yield self.progress.said(node, news)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not begun:
            refuse(refusal(self.outcomes))

    async def _follow(self, engine: Engine) -> None:
        """One engine's stream: None when it begins, its messages, and how it ended."""
        node = engine.node
        outcome = Answer(node=node.name, node_id=node.id)
        try:
            response = await engine.request(
                "POST",
                self._path,
                query=self._query,
                headers=relaying.headers_of(self._request),
                body=self._body(engine),
                version=self._request[VERSION],
            )
            if response.status >= 400:
                outcome = await answer_of(engine, response)
            else:
                await self._read(node.name, response)
        except EngineUnavailable as error:
            outcome = Answer(node=node.name, node_id=node.id, status=503, content=error.reason)
        except (ClientPayloadError, web.RequestPayloadError) as error:
            reason = f"the request's body cannot be read: {error}"
            outcome = Answer(node=node.name, node_id=node.id, status=400, content=reason)
        except (ValueError, OSError) as error:
            outcome = Answer(node=node.name, node_id=node.id, status=500, content=str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, the client waits for an outcome
            _LOG.exception("a bug in a request to the engine of node %s", node.name)
            outcome = Answer(node=node.name, node_id=node.id, status=500, content=f"{type(error).__name__}: {error}")
        finally:
            self._leave(engine)
        await self._news.put((node.name, outcome))

    async def _read(self, node: str, response: Response) -> None:
        """Raises EngineUnavailable, ValueError."""
        lines = Lines()
        try:
            await self._news.put((node, None))
            async for piece in response.pieces():
                for message in lines.feed(piece):
                    await self._news.put((node, message))
            for message in lines.end():
                await self._news.put((node, message))
        finally:
            await response.close()


async def stream(request: web.Request, broadcast: Broadcast) -> web.StreamResponse:
    """Answers the client with what the engines tell. Raises Problem when all of them refuse at once."""
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    async with contextlib.aclosing(broadcast.messages()) as batches:
        async for batch in batches:
            if not answer.prepared:
                await answer.prepare(request)
            if batch:
                await answer.write(encoded(batch))
    if (error := broadcast.progress.error()) is not None:
        await answer.write(encoded([error]))
    await answer.write_eof()
    return answer


async def upload(
    request: web.Request, asked: Sequence[Engine], path: str, *, query: str = "", source: AsyncIterator[bytes]
) -> web.StreamResponse:
    """Sends the same body to all of them. Raises Problem when all of them refuse at once."""
    copied = Copied(source, (engine.node.id for engine in asked))
    broadcast = Broadcast(
        request,
        asked,
        path,
        query=query,
        body=lambda engine: copied.read_by(engine.node.id),
        leave=lambda engine: copied.leave(engine.node.id),
    )
    pump = asyncio.create_task(copied.pump())
    try:
        return await stream(request, broadcast)
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
