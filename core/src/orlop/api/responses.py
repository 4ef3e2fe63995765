"""Answering: JSON whose making does not hold up the loop.

States are immutable, so documents of large ones are made on another thread, from a snapshot. They are serialised in
slices, because serialising holds the interpreter's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web

from orlop.kernel.state import State

#: Up to so many tasks and nodes together a document is made on the loop itself: that takes a few milliseconds.
MADE_ON_LOOP_MAX: Final = 200
SLICE_ITEMS: Final = 200

T = TypeVar("T")


async def computed(state: State, make: Callable[[], T]) -> T:
    """What `make` gives, on another thread when the state is large."""
    if len(state.tasks) + len(state.node_order) <= MADE_ON_LOOP_MAX:
        return make()
    return await asyncio.to_thread(make)


async def answer(state: State, make: Callable[[], Mapping[str, Any]], status: int = 200) -> web.Response:
    """A response with the object that `make` gives."""
    return _response(await computed(state, lambda: orjson.dumps(make())), status)


async def answer_list(
    state: State, name: str, items: Callable[[], Iterable[Any]], others: Callable[[], Mapping[str, Any]] = dict
) -> web.Response:
    """A response `{name: [items], **others}`; `others` is asked after the items are made."""
    return _response(await computed(state, lambda: list_bytes(name, items(), others)))


def plain(document: Mapping[str, Any], status: int = 200) -> web.Response:
    """A response with a small object."""
    return _response(orjson.dumps(document), status)


def list_bytes(name: str, items: Iterable[Any], others: Callable[[], Mapping[str, Any]] = dict) -> bytes:
    """`{name: [items], **others}` as JSON."""
    iterator = iter(items)
    slices = []
    while part := list(islice(iterator, SLICE_ITEMS)):
        slices.append(orjson.dumps(part)[1:-1])
    tail = orjson.dumps(others())[1:]
    return b"".join((b"{", orjson.dumps(name), b":[", b",".join(slices), b"]", b"," if tail != b"}" else b"", tail))


def _response(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json", charset="utf-8")
