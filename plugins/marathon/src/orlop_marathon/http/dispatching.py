"""From a path to a handler, with the tolerance that Marathon's clients rely on.

Repeated and trailing slashes count for nothing, `%2F` is a slash, and an app's id may have any number of segments,
which is why the resources take paths apart themselves instead of declaring patterns. Whatever goes wrong becomes a
JSON answer here; headers that every answer carries are added here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from orlop_marathon import errors, paths
from orlop_marathon.errors import MarathonError
from orlop_marathon.http import apps, deployments, groups, stream, system, tasks
from orlop_marathon.http.calls import Call, Methods, body_too_large, failed
from orlop_marathon.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

_LOG: Final = logging.getLogger(__name__)

#: Answers smaller than this are not worth compressing. In bytes.
LEAST_COMPRESSED_BYTES: Final = 1024

_VERSIONED: Final[dict[str, Callable[[list[str]], Methods | None]]] = {
    "apps": apps.resolve,
    "groups": groups.resolve,
    "deployments": deployments.resolve,
    "tasks": tasks.resolve_tasks,
    "queue": tasks.resolve_queue,
    "info": system.resolve_info,
    "leader": system.resolve_leader,
    "plugins": system.resolve_plugins,
    "events": stream.resolve,
}
_TOP: Final[dict[str, Callable[[list[str]], Methods | None]]] = {
    "ping": system.resolve_ping,
    "metrics": system.resolve_metrics,
}


def resolve(path: str) -> Methods:
    """The handlers of a path by method. Raises MarathonError (404)."""
    parts = paths.segments(path)
    found = None
    if parts[:1] == ["v2"] and len(parts) > 1 and parts[1] in _VERSIONED:
        found = _VERSIONED[parts[1]](parts[2:])
    elif parts and parts[0] in _TOP:
        found = _TOP[parts[0]](parts[1:])
    if found is None:
        raise errors.unknown_uri()
    return found


def application(host: Host, settings: Config) -> web.Application:
    """The whole API. `host`: the door to the framework."""
    leader = system.leader_address(host, settings)
    common = {
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Expires": "0",
        "X-Marathon-Leader": f"http://{leader}",
        "X-Frame-Options": "DENY",
        "X-XSS-Protection": "1; mode=block",
    }

    async def handle(request: web.Request) -> web.StreamResponse:
        call = Call(host, settings, request)
        methods = resolve(request.match_info["path"])
        method = "GET" if request.method == "HEAD" else request.method
        handler = methods.get(method)
        if handler is None:
            return failed(MarathonError(405, {"message": "Method Not Allowed"}), {"Allow": ", ".join(sorted(methods))})
        return await handler(call)

    @web.middleware
    async def edge(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except MarathonError as error:
            response = failed(error)
        except web.HTTPRequestEntityTooLarge:
            response = failed(body_too_large(settings.max_body_bytes))
        except web.HTTPException as error:
            response = failed(MarathonError(error.status, {"message": error.reason}))
        except Exception as error:  # noqa: BLE001  the last resort of a server: say that it is our fault, and go on
            _LOG.exception("%s %s failed", request.method, request.path)
            response = failed(MarathonError(500, {"message": f"{type(error).__name__}: {error}"}))
        if not response.prepared:
            _compress(request, response)
        return response

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(common)

    made = web.Application(middlewares=[edge], client_max_size=settings.max_body_bytes)
    made.on_response_prepare.append(add_headers)
    made.router.add_route("*", "/{path:.*}", handle)
    return made


def _compress(request: web.Request, response: web.StreamResponse) -> None:
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return
    accepted = "gzip" in request.headers.get("Accept-Encoding", "").casefold()
    if accepted and len(response.body) >= LEAST_COMPRESSED_BYTES:
        response.enable_compression(web.ContentCoding.gzip)
