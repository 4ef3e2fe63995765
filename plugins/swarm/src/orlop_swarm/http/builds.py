"""Builds: each on one engine, which is chosen as for a container."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from orlop_swarm.engines.interface import Engine
from orlop_swarm.http import relaying
from orlop_swarm.http.asking import ask_each, engines, query_of
from orlop_swarm.http.placing import place_of, split
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import SERVICES
from orlop_swarm.placement.expressions import ExpressionError
from orlop_swarm.placement.places import Place
from orlop_swarm.placement.scheduler import Unplaceable
from orlop_swarm.placement.wanted import Wanted

SESSION_HEADER: Final = "X-Docker-Expose-Session-Uuid"
#: What an engine takes for "no"; nothing at all is a "yes" here.
NO: Final = frozenset(("0", "no", "false", "none"))


async def built(request: web.Request) -> web.StreamResponse:
    """POST /build."""
    query, said = _without_expressions(request)
    engine = await _placed(request, said)
    builds = request.app[SERVICES].builds
    for key in ("buildid", "session"):
        if value := request.query.get(key):
            builds.placed(value, engine.node.id)
    return await relaying.relay(request, engine, "/build", query=query)


def _without_expressions(request: web.Request) -> tuple[str, Wanted]:
    """The engine's query, and what its arguments say of the place. Raises Problem (400)."""
    changes: dict[str, str] = {}
    said = Wanted()
    if given := request.query.get("buildargs"):
        rest, said = _arguments(given)
        changes["buildargs"] = orjson.dumps(rest).decode()
    # An engine leaves the containers of a failed step behind, where nobody looks for them in a pool.
    if request.query.get("rm", "").lower() not in NO:
        changes["forcerm"] = "1"
    return query_of(request, **changes), said


def _arguments(text: str) -> tuple[Mapping[str, Any], Wanted]:
    try:
        arguments = orjson.loads(text)
    except ValueError as error:
        raise Problem(400, f"error reading build args: {error}") from None
    if arguments is None:
        return {}, Wanted()
    if not isinstance(arguments, dict):
        raise Problem(400, "error reading build args: an object is expected")
    try:
        return split(arguments)
    except ExpressionError as error:
        raise Problem(400, f"error from constraint filter: {error.reason}") from None


async def _placed(request: web.Request, said: Wanted) -> Engine:
    """Raises Problem (500), in classic Swarm's words."""
    usable = engines(request)
    if len(usable) == 1 and said == Wanted():
        return usable[0]
    places = await _places(request, usable)
    if not places:
        raise Problem(503, "no engine answers")
    try:
        chosen = request.app[SERVICES].builds.choose(said, places)
    except Unplaceable as error:
        raise Problem(500, str(error)) from None
    return next(engine for engine in usable if engine.node.id == chosen.id)


async def _places(request: web.Request, usable: Sequence[Engine]) -> list[Place]:
    infos, containers, images = await asyncio.gather(
        ask_each(request, usable, "/info"),
        ask_each(request, usable, "/containers/json", query="all=1"),
        ask_each(request, usable, "/images/json"),
    )
    return [
        place_of(engine, info.content, rows.content, held.content)
        for engine, info, rows, held in zip(usable, infos, containers, images, strict=True)
        if info.good and rows.good and held.good
    ]


async def cancelled(request: web.Request) -> web.StreamResponse:
    """POST /build/cancel: of one that is not known, nothing is to be done."""
    node = request.app[SERVICES].builds.known(request.query.get("id", ""))
    for engine in engines(request):
        if engine.node.id == node:
            return await relaying.relay(request, engine, "/build/cancel")
    return web.Response(status=200, content_type="application/json")


async def session(request: web.Request) -> web.StreamResponse:
    """POST /session: what BuildKit asks of the client while it builds, on the engine of the build."""
    identifier = request.headers.get(SESSION_HEADER, "")
    if not identifier:
        raise Problem(400, "no session ID provided")
    node = await request.app[SERVICES].builds.where(identifier)
    for engine in engines(request):
        if engine.node.id == node:
            return await relaying.upgrade(request, engine, "/session")
    raise Problem(400, f"no build has named the session {identifier}")


async def no_grpc(_: web.Request) -> web.StreamResponse:
    """POST /grpc: a client that builds by itself would speak to one engine of many, and it cannot be told which."""
    raise Problem(501, "BuildKit's own interface (/grpc) is not there for the whole pool: use DOCKER_BUILDKIT=0")


def routes() -> list[web.RouteDef]:
    return [
        web.post("/build", built),
        web.post("/build/cancel", cancelled),
        web.post("/session", session),
        web.post("/grpc", no_grpc),
    ]
