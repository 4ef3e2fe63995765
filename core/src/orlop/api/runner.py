"""Running the API: requests that are not even HTTP, and expectations that cannot be met, get JSON errors as well.

aiohttp answers these before any application sees them. Everything else is `web.AppRunner`'s.
"""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web

from orlop.api.application import of_http
from orlop.api.connections import IDLE_S, BoundedProtocol
from orlop.api.guard import is_own
from orlop.api.problems import Problem

log = logging.getLogger(__name__)


class _Protocol(BoundedProtocol):
    """A connection that answers in JSON what it cannot parse."""

    __slots__ = ()

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
        self._options = {name: value for name, value in options.items() if name != "handler_cancellation"}
        self._options.setdefault("keepalive_timeout", IDLE_S)

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._options)


class OperatorRunner(web.AppRunner):
    """Takes what `web.AppRunner` takes."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), **self._kwargs)
