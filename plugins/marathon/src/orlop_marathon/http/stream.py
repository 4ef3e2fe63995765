"""`/v2/events`: the event bus as server-sent events.

Lines end in CRLF, as Jetty wrote them and marathon-lb splits them. There are no ids and no replay (Marathon 1.11).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from aiohttp import web

from orlop.framework import NotAvailable
from orlop_marathon.errors import MarathonError
from orlop_marathon.events import event
from orlop_marathon.framework import Marathon
from orlop_marathon.http.calls import Call, Methods, unavailable

#: Between bare line ends that keep an idle connection alive.
KEEP_ALIVE_S: Final = 10.0


def resolve(tail: list[str]) -> Methods | None:
    return {"GET": _events} if not tail else None


async def _events(call: Call) -> web.StreamResponse:
    if "text/event-stream" not in call.request.headers.get("Accept", ""):
        raise MarathonError(405, {"message": "Method Not Allowed"})
    wanted = frozenset(call.values("event_type"))
    try:
        now_utc_ms = (await call.view()).now.utc_ms
        with call.host.follow(Marathon.name) as queue:
            return await _stream(call, queue, wanted, now_utc_ms)
    except NotAvailable as error:
        raise unavailable(error) from None


async def _stream(call: Call, queue: asyncio.Queue[Any], wanted: frozenset[str], now_utc_ms: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream;charset=utf-8"})
    await response.prepare(call.request)
    attached = event("event_stream_attached", now_utc_ms, remoteAddress=call.request.remote or "")
    try:
        if not wanted or attached["eventType"] in wanted:
            await response.write(frame(attached))
        while True:
            try:
                said = await asyncio.wait_for(queue.get(), KEEP_ALIVE_S)
            except TimeoutError:
                await response.write(b"\r\n")
                continue
            if said is None:
                break
            if not wanted or said["eventType"] in wanted:
                await response.write(frame(said))
    except ConnectionResetError:
        pass  # the client has gone
    return response


def frame(said: dict[str, Any]) -> bytes:
    """One event on the wire."""
    return b"event: %b\r\ndata: %b\r\n\r\n" % (said["eventType"].encode(), orjson.dumps(said))
