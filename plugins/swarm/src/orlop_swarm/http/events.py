"""`GET /events`: the events of all engines as one stream, for as long as the client listens.

What has been is told first, in the order of time; then everything at once. The streams of all engines are open before
the past is asked for, so nothing falls between. An engine that goes away is followed again from its last event on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import attrs
import orjson
from aiohttp import web

from orlop_swarm.engines.interface import Engine, EngineUnavailable, Response
from orlop_swarm.http import relaying
from orlop_swarm.http.calling import answer_of, chosen, engines, filters_of, query_of
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import VERSION
from orlop_swarm.merging.answers import Answer
from orlop_swarm.merging.events import SECOND_NS, Event, Followed, Once, in_time, nanoseconds, of_node, timestamp
from orlop_swarm.merging.filters import Filters
from orlop_swarm.merging.progress import Lines

#: How often it is looked whether an engine has come, or come back.
LOOK_EVERY_S: Final = 1.0
#: How long an engine may take to begin to answer; the others wait so long for it, once.
HEAD_WITHIN_S: Final = 3.0
#: How long one may take to tell what has been.
PAST_WITHIN_S: Final = 5.0
WAITING_MAX: Final = 1_000


async def events(request: web.Request) -> web.StreamResponse:
    """GET /events."""
    return await _Stream(request, filters_of(request)).answer()


@attrs.define(eq=False)
class _Source:
    """One engine that is followed. response: of a stream that is open already."""

    engine: Engine
    followed: Followed
    response: Response | None = None
    task: asyncio.Task[None] | None = None


class _Stream:
    """One client's."""

    def __init__(self, request: web.Request, filters: Filters) -> None:
        self._request = request
        self._filters = filters
        self._since, self._until = request.query.get("since", ""), request.query.get("until", "")
        # An engine that is told when to end tells all that it remembers.
        if self._until and not self._since:
            self._since = "0"
        self._sources: dict[str, _Source] = {}
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MAX)
        self._began = time.time_ns()
        self._once = Once()
        engines(request)

    async def answer(self) -> web.StreamResponse:
        """Raises Problem, when engines refuse what is asked for."""
        ends_at = nanoseconds(self._until) if self._until else None
        past_only = bool(self._until) and (ends_at is None or ends_at <= self._began)
        result = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            if not past_only:
                await self._open_all()
            told = await self._past() if self._since else b""
            await result.prepare(self._request)
            if told:
                await result.write(told)
            if not past_only:
                await self._live(result, ends_at)
        finally:
            await self._close()
        return result

    async def _open_all(self) -> None:
        """Raises Problem."""
        usable = chosen(self._request, self._filters)
        self._sources = {engine.node.id: _Source(engine, Followed(self._began)) for engine in usable}
        opening = [asyncio.create_task(self._open_first(source)) for source in self._sources.values()]
        try:
            await asyncio.gather(*opening)
        finally:
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)

    async def _open_first(self, source: _Source) -> None:
        """Whatever becomes of the others, its stream is closed with them. Raises Problem."""
        source.response = await self._open(source.engine, None)

    async def _open(self, engine: Engine, since: int | None) -> Response | None:
        """A stream of what comes, after what has been since then. None when the engine is away.

        Raises Problem, when it refuses.
        """
        query = {"since": timestamp(since) if since is not None else "", "filters": self._filters.without(["node"])}
        try:
            async with asyncio.timeout(HEAD_WITHIN_S):
                response = await engine.request(
                    "GET",
                    "/events",
                    query=urlencode({name: value for name, value in query.items() if value}),
                    headers=relaying.headers_of(self._request),
                    version=self._request[VERSION],
                )
                await _refuse(engine, response)
        except (EngineUnavailable, TimeoutError):
            return None
        return response

    async def _past(self) -> bytes:
        """What has been since then, of all engines, in the order of time. Raises Problem."""
        ends_at = nanoseconds(self._until) if self._until else None
        until = (
            self._until
            if ends_at is None and self._until
            else timestamp(min(ends_at or time.time_ns(), time.time_ns()))
        )
        query = query_of(self._request, since=self._since, until=until, filters=self._filters.without(["node"]))
        usable = {engine.node.id: engine for engine in chosen(self._request, self._filters)}
        parts = await asyncio.gather(*(self._past_of(engine, query) for engine in usable.values()))
        written = b""
        for node_id, event in in_time(dict(zip(usable, parts, strict=True))):
            source = self._sources.get(node_id)
            if (source is None or source.followed.is_new(event)) and self._once.is_new(node_id, event):
                written += _line(event, usable[node_id])
        return written

    async def _past_of(self, engine: Engine, query: str) -> list[Event]:
        """An engine's clock may be behind, then its answer does not end by itself. Raises Problem."""
        told: list[Event] = []
        try:
            async with asyncio.timeout(PAST_WITHIN_S):
                response = await engine.request(
                    "GET",
                    "/events",
                    query=query,
                    headers=relaying.headers_of(self._request),
                    version=self._request[VERSION],
                )
                await _refuse(engine, response)
                async for event in _events(response):
                    told.append(event)  # noqa: PERF401  what has come by the deadline counts
        except (EngineUnavailable, TimeoutError, ValueError):
            pass
        return told

    async def _live(self, result: web.StreamResponse, ends_at: int | None) -> None:
        """Tells what comes, until the client goes, or the moment (nanoseconds) has come."""
        follower = asyncio.create_task(self._follow_all())
        try:
            async with asyncio.timeout((ends_at - time.time_ns()) / SECOND_NS if ends_at is not None else None):
                while True:
                    line = await self._queue.get()
                    await result.write(line)
        except TimeoutError:
            pass
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    async def _follow_all(self) -> None:
        """Follows each engine that can be used, and again after it was away."""
        while True:
            looked = time.time_ns()
            for engine in self._usable():
                source = self._sources.get(engine.node.id)
                if source is None:
                    # It is new here: what it has done since it was not yet seen counts.
                    source = self._sources[engine.node.id] = _Source(engine, Followed(self._began))
                source.engine = engine
                if source.task is None or source.task.done():
                    source.task = asyncio.create_task(self._follow(source))
            self._began = looked
            await asyncio.sleep(LOOK_EVERY_S)

    def _usable(self) -> Sequence[Engine]:
        with contextlib.suppress(Problem):
            return chosen(self._request, self._filters)
        return ()

    async def _follow(self, source: _Source) -> None:
        response, source.response = source.response, None
        with contextlib.suppress(EngineUnavailable, ValueError, Problem):
            if response is None:
                response = await self._open(source.engine, source.followed.since())
            if response is not None:
                async for event in _events(response):
                    if source.followed.is_new(event) and self._once.is_new(source.engine.node.id, event):
                        await self._queue.put(_line(event, source.engine))

    async def _close(self) -> None:
        tasks = [source.task for source in self._sources.values() if source.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for source in self._sources.values():
            if source.response is not None:
                await source.response.close()


async def _refuse(engine: Engine, response: Response) -> None:
    """Raises Problem, when the answer is a refusal."""
    if response.status >= 400:
        refused: Answer = await answer_of(engine, response)
        raise Problem(refused.status, str(refused.content))


async def _events(response: Response) -> AsyncIterator[Event]:
    """Raises EngineUnavailable, ValueError."""
    lines = Lines()
    try:
        async for piece in response.pieces():
            for event in lines.feed(piece):
                yield event
    finally:
        await response.close()


def _line(event: dict[str, Any], engine: Engine) -> bytes:
    return orjson.dumps(of_node(event, engine.node)) + b"\n"


def routes() -> list[web.RouteDef]:
    return [web.get("/events", events, allow_head=False)]
