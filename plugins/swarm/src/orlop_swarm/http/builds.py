"""Builds: each on one engine, which is chosen as for a container."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
from aiohttp import web

from orlop_swarm import dockerfiles
from orlop_swarm.engines.interface import Engine
from orlop_swarm.http import bodies, contexts, networks, relaying
from orlop_swarm.http.calling import ask_each, engines, query_of
from orlop_swarm.http.copying import bring
from orlop_swarm.http.looking import Image, Looking
from orlop_swarm.http.networks import id_on
from orlop_swarm.http.placing import Builds, having_any, place_of, split
from orlop_swarm.http.problems import Problem
from orlop_swarm.http.services import SERVICES
from orlop_swarm.merging.copies import Shown
from orlop_swarm.placement.expressions import ExpressionError
from orlop_swarm.placement.places import Place
from orlop_swarm.placement.scheduler import Unplaceable
from orlop_swarm.placement.wanted import Wanted

#: Networks that every engine has by itself.
OF_EVERY_ENGINE: Final = ("", "default", "bridge", "host", "none")
CONTAINER: Final = "container:"
SESSION_HEADER: Final = "X-Docker-Expose-Session-Uuid"
#: What an engine takes for "no"; nothing at all is a "yes" here.
NO: Final = frozenset(("0", "no", "false", "none"))


async def built(request: web.Request) -> web.StreamResponse:
    """POST /build."""
    changes, arguments, said = _without_expressions(request)
    network = await _network_of(request)
    context = await contexts.read(request, request.query.get("dockerfile", ""))
    names = dockerfiles.images(context.dockerfile, arguments, request.query.get("target", ""))
    bases = await _bases(request, names)
    engine = await _placed(request, said, network.nodes, bases)
    await _bring(request, engine, bases)
    if network.shown is not None:
        changes["networkmode"] = await id_on(request, network.shown, engine)
    elif network.container:
        changes["networkmode"] = network.container
    builds = request.app[SERVICES].builds
    for key in ("buildid", "session"):
        if value := request.query.get(key):
            builds.placed(value, engine.node.id)
    return await relaying.relay(request, engine, "/build", query=query_of(request, **changes), body=context.body)


@attrs.frozen(kw_only=True)
class _Network:
    """What a build's steps run in. nodes: ids of those where it must be; None: anywhere. shown: one that the pool
    knows. container: "container:…", as its engine knows it."""

    nodes: frozenset[str] | None = None
    shown: Shown | None = None
    container: str = ""


async def _network_of(request: web.Request) -> _Network:
    """Raises Problem (404), when a container that is named is not there."""
    mode = request.query.get("networkmode", "")
    if mode in OF_EVERY_ENGINE:
        return _Network()
    if mode.startswith(CONTAINER):
        owner = await request.app[SERVICES].owners.find(mode.removeprefix(CONTAINER))
        return _Network(nodes=frozenset((owner.engine.node.id,)), container=CONTAINER + owner.reference)
    try:
        shown = await networks.find(request, mode)
    except Problem:
        return _Network()  # the engine complains of it
    return _Network(nodes=await networks.in_use_on(request, shown) or None, shown=shown)


async def _bases(request: web.Request, names: Iterable[str]) -> dict[str, Image]:
    """What is known of the images that a build begins with; the engine that builds asks a registry for the others."""
    looking, usable = Looking(request.app[SERVICES].images), engines(request)
    found = {}
    for name in names:
        with contextlib.suppress(Problem):
            found[name] = await looking.image(usable, name)
    return found


async def _bring(request: web.Request, engine: Engine, bases: Mapping[str, Image]) -> None:
    """What is in no registry, to the engine that builds. Raises Problem."""
    others = {one.node.name: one for one in engines(request)}
    for name, image in bases.items():
        node = engine.node.name
        if image.registry or node in image.nodes:
            continue
        await bring(request, name, others[min(image.nodes)], engine)


def _without_expressions(request: web.Request) -> tuple[dict[str, str], Mapping[str, Any], Wanted]:
    """What the engine is told otherwise, the build's own arguments, and what they say of the place.

    Raises Problem (400).
    """
    changes: dict[str, str] = {}
    rest: Mapping[str, Any] = {}
    said = Wanted()
    arguments = _arguments(request.query.get("buildargs", ""))
    if arguments:
        rest, said = _split(arguments)
        changes["buildargs"] = orjson.dumps(rest).decode()
    # An engine leaves the containers of a failed step behind, where nobody looks for them in a pool.
    if request.query.get("rm", "").lower() not in NO:
        changes["forcerm"] = "1"
    return changes, rest, said


def _arguments(text: str) -> Mapping[str, Any]:
    """Empty if it cannot be read, too: the engine, which gets it as it is, says why."""
    try:
        arguments = bodies.decoded(text.encode(errors="replace"))
    except bodies.Misfit:
        return {}
    if not isinstance(arguments, dict) or not all(isinstance(one, str | None) for one in arguments.values()):
        return {}
    return arguments


def _split(arguments: Mapping[str, Any]) -> tuple[Mapping[str, Any], Wanted]:
    try:
        return split(arguments)
    except ExpressionError as error:
        raise Problem(400, f"error from constraint filter: {error.reason}") from None


async def _placed(
    request: web.Request, said: Wanted, nodes: frozenset[str] | None, bases: Mapping[str, Image]
) -> Engine:
    """Raises Problem (500), in classic Swarm's words. nodes: ids of the only ones that will do; None: all."""
    usable = [engine for engine in engines(request) if nodes is None or engine.node.id in nodes]
    if len(usable) == 1 and said == Wanted():
        return usable[0]
    places = await _places(request, usable)
    if not places:
        raise Problem(503, "no engine answers")
    wished = having_any(places, [*_cached_from(request), *request.query.getall("t", [])])
    chosen = _chosen(request.app[SERVICES].builds, said, places, wished, list(bases.values()))
    return next(engine for engine in usable if engine.node.id == chosen.id)


def _chosen(
    builds: Builds, said: Wanted, places: Sequence[Place], wished: frozenset[str], bases: Sequence[Image]
) -> Place:
    """Where all that it begins with is, if what is said lets it be there; else what is in no registry is brought.

    Raises Problem (500).
    """
    in_none = [image.nodes for image in bases if not image.registry]
    pulled = [image.nodes for image in bases if image.registry]
    for needed in ([*in_none, *pulled], in_none):
        having = [place for place in places if all(place.name in nodes for nodes in needed)]
        with contextlib.suppress(Unplaceable):
            if having:
                return builds.choose(said, having, wished)
    try:
        return builds.choose(said, places, wished)
    except Unplaceable as error:
        raise Problem(500, str(error)) from None


def _cached_from(request: web.Request) -> list[str]:
    """What cannot be read is for the engine to complain of."""
    try:
        names = orjson.loads(request.query.get("cachefrom") or "[]")
    except ValueError:
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


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
    identifier = request.query.get("id", "")
    if not identifier:
        raise Problem(500, "build ID not provided")
    node = request.app[SERVICES].builds.known(identifier)
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
