"""The event log: `/v1/events` as a list, or, for `Accept: text/event-stream`, as a stream that can be resumed.

A stream that is resumed first follows the log, then reads what it missed, then goes on with what it followed,
leaving out what it has sent: so nothing is lost in between, and nothing comes twice. What the log does not have any
more, or does not have yet (ids of a later state that a restored backup has not seen), is said by an event `gap`.
A client that is too slow is cut off, and resumes where it was.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from orlop.api.documents import event_document, event_id
from orlop.api.interface import OperatorServer
from orlop.api.problems import invalid
from orlop.api.requests import flag, read_query, server_of, text, whole
from orlop.api.responses import answer_list
from orlop.api.streams import client_is_gone, streaming
from orlop.kernel.events import Logged
from orlop.model.log_entries import LogEntry

LISTED_EVENTS_MAX: Final = 1_000
LISTED_EVENTS_DEFAULT: Final = 100
#: How many entries are looked through for those of some type.
SEARCHED_EVENTS_MAX: Final = 10_000
KEEP_ALIVE_S: Final = 15.0
#: How long a client may take to read what fills its connection.
WRITE_TIMEOUT_S: Final = 30.0
#: What a browser waits before it connects again, in milliseconds.
RETRY_MS: Final = 2_000

Position = tuple[int, int]
Numbered = tuple[int, int, LogEntry]

_ID: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,9})", re.ASCII)


def position(value: str) -> Position:
    """An event's id as a position in the log. Raises ValueError."""
    found = _ID.fullmatch(value)
    if found is None:
        raise ValueError("expected the id of an event, such as 17-0")
    return int(found[1]), int(found[2])


def types(value: str) -> Callable[[LogEntry], bool]:
    """`task.running,node` selects that very type, and all below `node`."""
    chosen = frozenset(text(value).split(","))
    return lambda entry: entry.type in chosen or any(entry.type.startswith(f"{one}.") for one in chosen)


async def get_events(request: web.Request) -> web.StreamResponse:
    asked = read_query(
        request, after=position, limit=whole(1, LISTED_EVENTS_MAX), type=types, subject=text, follow=flag
    )
    if asked["follow"] or "text/event-stream" in request.headers.get("Accept", ""):
        if asked["limit"] is not None:
            raise invalid("query.limit", "a stream has no limit")
        return await _Stream(request, asked).run()
    return await _list(server_of(request), asked)


async def _list(server: OperatorServer, asked: Mapping[str, Any]) -> web.Response:
    limit = asked["limit"] or LISTED_EVENTS_DEFAULT
    after, wanted = asked["after"], asked["type"]
    state = server.state()
    from_future = after is not None and after[0] > state.version
    searched = SEARCHED_EVENTS_MAX if wanted is not None else limit
    entries, gap = await server.log_entries(
        after=None if from_future else after, limit=searched, subject=asked["subject"]
    )
    found = [entry for entry in entries if wanted is None or wanted(entry[2])]
    chosen = found[-limit:] if after is None or from_future else found[:limit]
    # What comes next is after the last one looked at, unless there were more to show.
    last = chosen[-1] if len(found) > len(chosen) and after is not None else (entries[-1] if entries else None)
    others = {"gap": gap or from_future, "next": event_id(last[0], last[1]) if last is not None else None}
    return await answer_list(state, "events", lambda: (event_document(*entry) for entry in chosen), lambda: others)


class _Stream:
    """One client's stream. `_sent` is the position of the last entry sent or passed over."""

    def __init__(self, request: web.Request, asked: Mapping[str, Any]) -> None:
        self._request = request
        self._server = server_of(request)
        self._wanted = asked["type"]
        self._subject = asked["subject"]
        self._after = asked["after"]
        if (last := request.headers.get("Last-Event-ID")) is not None:
            # A browser repeats the address it began with, so that the header is the newer word.
            try:
                self._after = position(last)
            except ValueError as error:
                raise invalid("header.Last-Event-ID", f"Last-Event-ID: {error}") from None
        self._sent: Position = (-1, -1)
        self._response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )

    async def run(self) -> web.StreamResponse:
        async with streaming(self._request):
            with self._server.follow_log() as queue:
                await self._response.prepare(self._request)
                try:
                    await self._write([f"retry: {RETRY_MS}\n: connected\n\n".encode()])
                    await self._catch_up()
                    await self._follow(queue)
                except (ConnectionError, TimeoutError):
                    if self._request.transport is not None:
                        self._request.transport.abort()
        return self._response

    async def _catch_up(self) -> None:
        if self._after is None:
            return
        version = self._server.state().version
        if self._after[0] > version:
            await self._write([_gap(self._after)])
            return
        self._sent = self._after
        while True:
            entries, gap = await self._server.log_entries(
                after=self._sent, limit=LISTED_EVENTS_MAX, subject=self._subject
            )
            if gap:
                await self._write([_gap(self._sent)])
            await self._send(entries)
            if len(entries) < LISTED_EVENTS_MAX:
                return

    async def _follow(self, queue: asyncio.Queue[Logged | None]) -> None:
        assert queue.maxsize > 1, "a follower's queue is bounded"
        while not client_is_gone(self._request):
            try:
                logged = await asyncio.wait_for(queue.get(), KEEP_ALIVE_S)
            except TimeoutError:
                await self._write([b": alive\n\n"])
                continue
            # A queue that was full may have lost its oldest entries; whoever reconnects reads them from the log.
            if logged is None or queue.qsize() >= queue.maxsize - 1:
                return
            await self._send((logged.version, index, entry) for index, entry in enumerate(logged.entries))

    async def _send(self, entries: Iterable[Numbered]) -> None:
        frames = []
        for version, index, entry in entries:
            if (version, index) <= self._sent:
                continue
            self._sent = (version, index)
            if self._subject in (None, entry.subject) and (self._wanted is None or self._wanted(entry)):
                document = orjson.dumps(event_document(version, index, entry))
                frames.append(b"id: %s\ndata: %s\n\n" % (event_id(version, index).encode(), document))
        if frames:
            await self._write(frames)

    async def _write(self, frames: list[bytes]) -> None:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await self._response.write(b"".join(frames))


def _gap(after: Position) -> bytes:
    document = {"after": event_id(*after), "text": "events after this one are missing: read the state anew"}
    return b"event: gap\ndata: %s\n\n" % orjson.dumps(document)


ROUTES: Final = [web.get("/v1/events", get_events, allow_head=False)]
