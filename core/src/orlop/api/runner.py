"""Running the API: requests that are not even HTTP, and expectations that cannot be met, get JSON errors as well.

aiohttp answers these before any application sees them. Everything else is `web.AppRunner`'s.

A TLS connection has to prove within a while who it is, and there may be so many that have not: one that has not been
`proven` by then, or is the oldest of too many, is closed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from aiohttp import web, web_protocol

from orlop.api.application import of_http
from orlop.api.connections import IDLE_S, BoundedProtocol
from orlop.api.guard import is_own
from orlop.api.problems import Problem

log = logging.getLogger(__name__)

PROVEN_WITHIN_S: Final = 20.0
UNPROVEN_MAX: Final = 1_000


class _Protocol(BoundedProtocol):
    """A connection that answers in JSON what it cannot parse."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if transport.get_extra_info("ssl_object") is not None and isinstance(self._manager, _Server):
            self._manager.unproven.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.proven()
        super().connection_lost(exc)

    def proven(self) -> None:
        """It is known who this is."""
        if isinstance(self._manager, _Server):
            self._manager.unproven.discard(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        log.debug("a request from %s could not be read: %s", request.remote, message)
        detail = " ".join((message or "").split())[:200]
        response = Problem(status, f"the request is not valid HTTP: {detail}".rstrip(": ")).response()
        response.force_close()
        return response


class _Unproven:
    """Connections of which it is not known who they are, the oldest first."""

    def __init__(self) -> None:
        self._deadlines: dict[web_protocol.RequestHandler, asyncio.TimerHandle] = {}

    def add(self, connection: web_protocol.RequestHandler) -> None:
        loop = asyncio.get_running_loop()
        self._deadlines[connection] = loop.call_later(PROVEN_WITHIN_S, self._close, connection)
        if len(self._deadlines) > UNPROVEN_MAX:
            self._close(next(iter(self._deadlines)))

    def discard(self, connection: web_protocol.RequestHandler) -> None:
        deadline = self._deadlines.pop(connection, None)
        if deadline is not None:
            deadline.cancel()

    def _close(self, connection: web_protocol.RequestHandler) -> None:
        self.discard(connection)
        log.info("a connection from %s has not proven who it is: closed", connection.peername)
        connection.force_close()


class _Server(web.Server):
    def __init__(self, plain: web.Server, **options: Any) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await plain.request_handler(request)
            except web.HTTPException as error:
                if error.status < 400 or error.prepared or not isinstance(request, web.Request) or not is_own(request):
                    raise
                return of_http(request, error).response()

        super().__init__(handle, request_factory=plain.request_factory, **options)
        self.unproven = _Unproven()
        self._options = {name: value for name, value in options.items() if name != "handler_cancellation"}
        self._options.setdefault("keepalive_timeout", IDLE_S)

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._options)


class OperatorRunner(web.AppRunner):
    """Takes what `web.AppRunner` takes."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), **self._kwargs)
