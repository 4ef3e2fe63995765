"""Connections that are no HTTP any more after their first answer (WebSocket, Docker's streams): handed on as bytes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from orlop.api.half_close import open_tls_connection
from orlop.api.problems import Problem
from orlop.hijacking import taken_over
from orlop.sockets import break_off_at_close

CONNECT_TIMEOUT_S: Final = 3.0
HEAD_TIMEOUT_S: Final = 30.0
HEAD_BYTES_MAX: Final = 65_536
BODY_BYTES_MAX: Final = 2**20
PIECE_BYTES: Final = 65_536


async def hand_on_upgrade(
    request: web.Request, target: URL, headers: CIMultiDict[str], context: ssl.SSLContext | None = None
) -> web.StreamResponse | None:
    """Connects the client with `target`; an empty response when both are done. None: the target was not reached.

    A body comes before what follows the answer's head, as that of Docker's `exec` does. Raises Problem (413, 503).
    """
    body = await _body(request)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await _connect(target, context)
    except (OSError, TimeoutError):
        return None
    try:
        writer.write(_head(request, target, headers, body) + body)
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.close()
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, f"the outcome is not known: no answer of the leader: {error}"
        ) from None
    if _status(head) != HTTPStatus.SWITCHING_PROTOCOLS:
        return await _refused(head, reader, writer)
    await _join(request, head, reader, writer)
    return web.Response()


async def _connect(target: URL, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert target.host is not None, "it is a server's address"
    assert target.port is not None, "it is one of HTTP"
    if target.scheme == "https" and context is not None:
        return await open_tls_connection(target.host, target.port, context, HEAD_BYTES_MAX)
    return await asyncio.open_connection(target.host, target.port, limit=HEAD_BYTES_MAX)


async def _body(request: web.Request) -> bytes:
    body = b""
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request to upgrade takes {BODY_BYTES_MAX} bytes at most"
            )
    return body


def _head(request: web.Request, target: URL, headers: CIMultiDict[str], body: bytes) -> bytes:
    lines = [f"{request.method} {target.raw_path_qs} HTTP/1.1", f"Host: {target.authority}"]
    framing = (hdrs.CONTENT_LENGTH.lower(), hdrs.TRANSFER_ENCODING.lower())
    lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in framing]
    if body or hdrs.CONTENT_LENGTH in request.headers:
        lines.append(f"{hdrs.CONTENT_LENGTH}: {len(body)}")
    lines += [f"Upgrade: {request.headers[hdrs.UPGRADE]}", "Connection: Upgrade"]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def _status(head: bytes) -> int:
    parts = head.split(b" ", 2)
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


async def _refused(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> web.Response:
    """An ordinary answer: a refusal in words."""
    fields: CIMultiDict[str] = CIMultiDict()
    for line in head.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.add(name, value.strip())
    size = fields.get(hdrs.CONTENT_LENGTH, "")
    wanted = min(int(size), BODY_BYTES_MAX) if size.isdigit() else BODY_BYTES_MAX
    body = b""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            body = await (reader.readexactly(wanted) if size else reader.read(wanted))
    writer.close()
    kind = fields.get(hdrs.CONTENT_TYPE, "application/octet-stream")
    return web.Response(status=_status(head) or 502, body=body, headers={hdrs.CONTENT_TYPE: kind})


async def _join(request: web.Request, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the client's connection from aiohttp, and moves bytes until both directions have ended."""
    try:
        async with taken_over(request, PIECE_BYTES) as (client_reader, client_writer):
            client_writer.write(head)
            there = _pump(client_reader, writer, lambda: _reset(writer))
            await asyncio.gather(there, _pump(reader, client_writer, client_writer.transport.abort))
    except ConnectionResetError:  # the client is gone, and nobody is to be answered
        _reset(writer)
    finally:
        writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, cut: Callable[[], None]) -> None:
    """One direction, its end included. cut: what is done when the source breaks off, which is no end."""
    while True:
        try:
            piece = await source.read(PIECE_BYTES)
        except OSError:
            cut()
            return
        if not piece:
            break
        try:
            target.write(piece)
            await target.drain()
        except OSError:  # it takes no more, but may have something to say
            return
    with contextlib.suppress(OSError):
        if target.can_write_eof():
            target.write_eof()
        else:
            target.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """The other end is to see that this is not the end of one direction alone."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        break_off_at_close(raw)
    writer.transport.abort()
