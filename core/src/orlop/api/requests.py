"""Reading requests: strictly, with errors that name what is wrong.

What is not understood is refused, for a mistyped `?lmit=10` that is silently ignored costs an operator an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, Final, cast

import orjson
from aiohttp import web

from orlop.api.interface import OperatorServer
from orlop.api.problems import Problem, invalid, printable

BODY_BYTES_MAX: Final = 2**20
TEXT_CHARACTERS_MAX: Final = 1_000

SERVER: Final = web.AppKey("server", object)
#: Who asks in the request being handled.
PRINCIPAL: Final = ContextVar("principal", default="operator")

#: From the text of one parameter to its value; raises ValueError with what was expected.
Reader = Callable[[str], Any]


def server_of(request: web.Request) -> OperatorServer:
    """The server behind the API."""
    return cast(OperatorServer, request.app[SERVER])


def cause_of(reason: str | None) -> str:
    """What the event log shall say about who did it and why."""
    return ": ".join(part for part in (PRINCIPAL.get(), reason) if part)


def text(value: str) -> str:
    """Any text that is not too long."""
    if len(value) > TEXT_CHARACTERS_MAX:
        raise ValueError(f"expected at most {TEXT_CHARACTERS_MAX} characters, got {len(value)}")
    if printable(value) != value:
        raise ValueError("expected UTF-8")
    return value


def flag(value: str) -> bool:
    """`?follow`, `?follow=true`, `?follow=0`."""
    known = {"": True, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if value.lower() not in known:
        raise ValueError(f'expected "true" or "false", got {printable(value)!r}')
    return known[value.lower()]


def whole(lowest: int, highest: int) -> Reader:
    """A whole number within bounds."""

    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) < 19 and lowest <= int(value) <= highest):
            raise ValueError(f"expected a whole number from {lowest} to {highest}, got {printable(value)!r}")
        return int(value)

    return Number(read)


class Number:
    """A reader to which a body may also give a JSON number."""

    def __init__(self, read: Reader) -> None:
        self._read = read

    def __call__(self, value: str) -> Any:
        return self._read(value)


def one_of(allowed: Collection[str]) -> Reader:
    """One of a few words."""

    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}, got {printable(value)!r}")
        return value

    return read


def several_of(allowed: Collection[str]) -> Reader:
    """Words of a few, separated by commas."""
    read_one = one_of(allowed)
    return lambda value: frozenset(read_one(part) for part in value.split(","))


def read_query(request: web.Request, **readers: Reader) -> Mapping[str, Any]:
    """name → value, None for what is not given. Raises Problem, for unknown and repeated parameters too."""
    given = request.query
    unknown = sorted({printable(name) for name in given if name not in readers})
    if unknown:
        known = ", ".join(readers) or "none"
        names = ", ".join(unknown)[:TEXT_CHARACTERS_MAX]
        raise invalid(f"query.{unknown[0][:100]}", f"unknown query parameter: {names}", f"known here: {known}")
    values: dict[str, Any] = dict.fromkeys(readers)
    for name, value in given.items():
        if values[name] is not None:
            raise invalid(f"query.{name}", f"the query parameter {name} is given more than once")
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            raise invalid(f"query.{name}", f"{name}: {error}") from None
    return values


async def read_body(request: web.Request, **readers: Reader) -> Mapping[str, Any]:
    """The members of a JSON object, texts and whole numbers, None for what is not given; an empty body is `{}`.

    Raises Problem.
    """
    raw = await _read_bytes(request)
    document = _parse_object(raw) if raw.strip() else {}
    unknown = sorted(name for name in document if name not in readers)
    if unknown:
        known = ", ".join(readers) or "none"
        names = ", ".join(unknown)[:TEXT_CHARACTERS_MAX]
        raise invalid(f"body.{unknown[0][:100]}", f"unknown member: {names}", f"known here: {known}")
    values: dict[str, Any] = dict.fromkeys(readers)
    for name, value in document.items():
        if isinstance(readers[name], Number) and type(value) in (int, float):
            value = str(value)
        if not isinstance(value, str):
            raise invalid(f"body.{name}", f"{name}: expected a text, got {_kind(value)}")
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            raise invalid(f"body.{name}", f"{name}: {error}") from None
    return values


async def _read_bytes(request: web.Request) -> bytes:
    raw = bytearray()
    async for chunk in request.content.iter_chunked(2**16):
        raw += chunk
        if len(raw) > BODY_BYTES_MAX:
            raise too_large()
    return bytes(raw)


def too_large() -> Problem:
    """413."""
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {BODY_BYTES_MAX} bytes", path="body")


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid("body", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise invalid("body", f"expected a JSON object, got {_kind(document)}")
    return document


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
