"""From a request to its handler, as an engine does it: with and without a version in front, errors in JSON.

aiohttp's own router would look through all paths twice, one after another, because of the version in front; a table
by the first segment of the path is as short and finds a route at once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from urllib.parse import unquote

import attrs
from aiohttp import ClientConnectionResetError, hdrs, web

from orlop.framework import NotAvailable
from orlop_swarm.engines.client import SAFE
from orlop_swarm.engines.interface import EngineUnavailable
from orlop_swarm.http import balancing, bodies, builds, containers, events, images, listing, networks, system, volumes
from orlop_swarm.http.exec import routes as exec_routes
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.relaying import EngineAnswer
from orlop_swarm.http.services import SERVICES, SPOKEN, VERSION, Services
from orlop_swarm.http.versions import number
from orlop_swarm.merging.filters import BadFilters

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Below this version an engine's errors are plain text.
JSON_ERRORS_FROM: Final[tuple[int, ...]] = (1, 24)
BODY_BYTES_MAX: Final = 16 * 2**20

#: First segments of what can change which images there are.
CHANGE_IMAGES: Final = frozenset(("images", "build", "commit"))

_LOG: Final = logging.getLogger(__name__)
_PREFIX: Final = re.compile(r"/v([0-9.]{1,32})(/.*)")
#: An engine cleans such paths and sends its client elsewhere; nobody's name is one of these.
_DOUBLED: Final = re.compile(r"(?:/|%2f){2,}", re.IGNORECASE)
_CLIMBS: Final = re.compile(r"/\.{1,2}(?:/|$)")
_PARAMETER: Final = re.compile(r"\{(\w+)(?::([^{}]+))?\}")


@attrs.frozen
class _Route:
    method: str
    pattern: re.Pattern[str]
    handler: Handler


class Table:
    """Routes by the first segment of their paths; the first that matches is taken.

    A path's parameter is one segment (`{id}`), or what its expression says (`{name:.*}`).
    """

    def __init__(self, routes: Iterable[web.RouteDef]) -> None:
        self._routes: dict[str, list[_Route]] = {}
        for route in routes:
            assert not isinstance(route.handler, type), "handlers are coroutines"
            entry = _Route(route.method, _compiled(route.path), route.handler)
            self._routes.setdefault(_first(route.path), []).append(entry)

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
        """path: quoted. The parameters' values are not."""
        for route in self._routes.get(_first(path), ()):
            if route.method == method and (match := route.pattern.fullmatch(path)):
                return route.handler, {name: unquote(value) for name, value in match.groupdict().items()}
        return None


def _first(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _compiled(path: str) -> re.Pattern[str]:
    pieces, end = [], 0
    for parameter in _PARAMETER.finditer(path):
        name, expression = parameter.groups()
        pieces += [re.escape(path[end : parameter.start()]), f"(?P<{name}>{expression or '[^/]+'})"]
        end = parameter.end()
    return re.compile("".join([*pieces, re.escape(path[end:])]))


def all_routes() -> list[web.RouteDef]:
    """Every endpoint, without a version in front."""
    return [
        web.get("/_ping", ping, allow_head=False),
        web.head("/_ping", ping),
        *listing.routes(),
        *containers.routes(),
        *exec_routes(),
        *system.routes(),
        *images.routes(),
        *builds.routes(),
        *networks.routes(),
        *volumes.routes(),
        *events.routes(),
        *balancing.routes(),
    ]


def make_application(services: Services) -> web.Application:
    """The whole API."""
    table = Table(all_routes())

    async def handle(request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if _DOUBLED.search(path):
            return moved(request, _DOUBLED.sub("/", path))
        asked = _PREFIX.fullmatch(path)
        plain = asked.group(2) if asked else path
        found = (
            (_options, dict[str, str]()) if request.method == hdrs.METH_OPTIONS else table.find(request.method, plain)
        )
        if found is None or _CLIMBS.search(unquote(path)):
            raise Problem(404, "page not found")
        handler, parameters = found
        request[SPOKEN] = spoken = await services.versions.spoken()
        request[VERSION] = asked.group(1) if asked else spoken.maximum
        spoken.check(request[VERSION])
        request[VERSION] = ".".join(map(str, number(request[VERSION])))
        request.match_info.update(parameters)
        try:
            return await handler(request)
        except BadFilters:
            # Each endpoint has its own words for them, and nothing is done before they are read.
            return await bodies.refused_by_one(request, plain, request.rel_url.raw_query_string)
        finally:
            if request.method not in SAFE and _first(plain) in CHANGE_IMAGES:
                services.images.forget()

    application = web.Application(middlewares=[edge], client_max_size=BODY_BYTES_MAX)
    application[SERVICES] = services
    application.on_response_prepare.append(add_headers)
    application.router.add_route("*", "/{path:.*}", handle)
    return application


async def _options(_: web.Request) -> web.StreamResponse:
    """OPTIONS of whatever path: nothing, and that is fine."""
    nothing = EngineAnswer()
    nothing.untyped, nothing.content_length = True, 0
    return nothing


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong becomes an answer here."""
    try:
        return await handler(request)
    except Problem as problem:
        return failed(request, problem)
    except (EngineUnavailable, NotAvailable) as error:
        return failed(request, Problem(503, str(error)))
    except web.HTTPException as error:
        return failed(request, Problem(error.status, error.reason))
    except ClientConnectionResetError:
        return web.Response()  # the client has gone, and nobody reads it
    except Exception as error:  # noqa: BLE001  the last resort of a server: say that it is our fault, and go on
        _LOG.exception("%s %s failed", request.method, request.path)
        return failed(request, Problem(500, f"{type(error).__name__}: {error}"))


def moved(request: web.Request, path: str) -> web.Response:
    """Sends the client to this path of the pool, with the query it has asked with."""
    query = request.rel_url.raw_query_string
    return web.Response(status=301, headers={hdrs.LOCATION: f"{path}?{query}" if query else path})


def failed(request: web.Request, problem: Problem) -> web.Response:
    version = request.get(VERSION)
    if version is not None and number(version) < JSON_ERRORS_FROM:
        headers = {"X-Content-Type-Options": "nosniff"}
        return web.Response(text=f"{problem.message}\n", status=problem.status, headers=headers)
    return problem.response()


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What an engine says of itself with every answer; an answer that an engine has made has it already.

    What aiohttp has added by itself goes: it is called at the very last.
    """
    headers = response.headers
    if isinstance(response, EngineAnswer) and response.untyped:
        headers.popall(hdrs.CONTENT_TYPE, None)
    if request.method == hdrs.METH_HEAD and isinstance(response, web.Response):
        headers.setdefault(hdrs.CONTENT_LENGTH, "0")
    spoken = request.get(SPOKEN)
    if spoken is None:
        headers.popall(hdrs.SERVER, None)
        return
    headers["Api-Version"] = spoken.maximum
    headers["Docker-Experimental"] = str(spoken.experimental).lower()
    headers["Ostype"] = spoken.os
    headers[hdrs.SERVER] = spoken.server


async def ping(request: web.Request) -> web.StreamResponse:
    """GET and HEAD /_ping: how clients find out which version to speak."""
    spoken = request[SPOKEN]
    headers = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
    if spoken.builder:
        headers["Builder-Version"] = spoken.builder
    if spoken.swarm:
        headers["Swarm"] = spoken.swarm
    body = b"OK" if request.method == "GET" else b""
    return web.Response(body=body, headers=headers, content_type="text/plain", charset="utf-8")
