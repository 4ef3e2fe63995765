"""The pool itself: `info`, `version`, `system df`, and what engines do with registries and among themselves."""

from __future__ import annotations

import asyncio
import re
from typing import Final
from urllib.parse import quote, urlencode

import orjson
from aiohttp import web

from orlop.docker_containers import KEPT_NAMES
from orlop_swarm.http import relaying
from orlop_swarm.http.calling import (
    WORK_WITHIN_S,
    ask_each,
    engines,
    first_that_can,
    not_here,
    refuse,
    refuse_unless_any,
)
from orlop_swarm.http.problems import Problem, answer
from orlop_swarm.http.services import SERVICES, SPOKEN
from orlop_swarm.merging import images as merging_images
from orlop_swarm.merging import system as merging
from orlop_swarm.merging.answers import good, nobody_has_it, pruned
from orlop_swarm.merging.system import About, Member

NO_SWARM_MODE: Final = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
#: Of a list of containers: those that are only kept for their output.
KEPT: Final = urlencode({"all": 1, "filters": orjson.dumps({"name": [re.escape(KEPT_NAMES)]}).decode()})
SWARM_MODE: Final = ("swarm", "nodes", "services", "tasks", "secrets", "configs")


async def info(request: web.Request) -> web.StreamResponse:
    """GET /info."""
    services = request.app[SERVICES]
    usable = services.pool.engines()
    told, images, kept = await asyncio.gather(
        ask_each(request, usable, "/info"),
        ask_each(request, usable, "/images/json", query="all=1"),
        ask_each(request, usable, "/containers/json", query=KEPT),
    )
    merged = merging.info(merging.without_kept(told, kept), members(request), about(request))
    return answer({**merged, "Images": len(merging_images.listed(images))})


def members(request: web.Request) -> list[Member]:
    """Every node, with what is known of it without its engine."""
    services = request.app[SERVICES]
    overview = services.overview
    if overview is not None:
        return list(overview.members())
    return [
        Member(
            id=node.id,
            name=node.name,
            address=node.address,
            unavailable=node.unavailable,
            attributes=node.attributes,
        )
        for node in services.pool.nodes()
    ]


def about(request: web.Request) -> About:
    overview = request.app[SERVICES].overview
    return overview.about() if overview is not None else About(id="orlop", name="orlop", version="")


async def version(request: web.Request) -> web.StreamResponse:
    """GET /version."""
    told = await ask_each(request, engines(request), "/version")
    refuse_unless_any(told)
    spoken = request[SPOKEN]
    return answer(merging.version(told, about(request), spoken.minimum, spoken.maximum))


async def disk_usage(request: web.Request) -> web.StreamResponse:
    """GET /system/df."""
    query = request.rel_url.raw_query_string
    told = await ask_each(request, engines(request), "/system/df", query=query, within_s=WORK_WITHIN_S)
    refuse_unless_any(told)
    return answer(merging.disk_usage(told))


async def auth(request: web.Request) -> web.StreamResponse:
    """POST /auth: does the registry know this user?"""
    return await first_that_can(request, "/auth", body=await relaying.small_body(request))


async def distribution(request: web.Request) -> web.StreamResponse:
    """GET /distribution/{name}/json: what a registry has."""
    return await first_that_can(request, request.rel_url.raw_path[request.rel_url.raw_path.index("/distribution/") :])


async def plugins(request: web.Request) -> web.StreamResponse:
    """GET /plugins: those of all engines."""
    query = request.rel_url.raw_query_string
    told = await ask_each(request, engines(request), "/plugins", query=query)
    refuse_unless_any(told)
    return answer(merging.plugins(told))


async def plugin(request: web.Request) -> web.StreamResponse:
    """GET /plugins/{name}/json: of the first engine that has it."""
    path = f"/plugins/{quote(request.match_info['name'], safe='/:@')}/json"
    told = await ask_each(request, engines(request), path)
    refuse(nobody_has_it(told))
    return answer(good(told)[0].content)


async def no_plugins(_: web.Request) -> web.StreamResponse:
    """Anything else about plugins, which belong to engines, one by one."""
    not_here("The management of engines' plugins")


async def no_swarm_mode(_: web.Request) -> web.StreamResponse:
    """An engine that is not in swarm mode says this, and the pool is not in it either."""
    raise Problem(503, NO_SWARM_MODE)


async def leave_swarm_mode(_: web.Request) -> web.StreamResponse:
    """POST /swarm/leave: as an engine that is not in it."""
    raise Problem(503, "This node is not part of a swarm")


async def begin_swarm_mode(_: web.Request) -> web.StreamResponse:
    """POST /swarm/init and /swarm/join: engines that are in swarm mode would be asked one by one."""
    not_here("Swarm mode")


async def prune_build_cache(request: web.Request) -> web.StreamResponse:
    """POST /build/prune."""
    query = request.rel_url.raw_query_string
    told = await ask_each(request, engines(request), "/build/prune", method="POST", query=query, within_s=WORK_WITHIN_S)
    refuse_unless_any(told)
    return answer(pruned(told, "CachesDeleted"))


def routes() -> list[web.RouteDef]:
    table = [
        web.get("/info", info, allow_head=False),
        web.get("/version", version, allow_head=False),
        web.get("/system/df", disk_usage, allow_head=False),
        web.post("/auth", auth),
        web.get("/distribution/{name:.*}/json", distribution, allow_head=False),
        web.get("/plugins", plugins, allow_head=False),
        web.get("/plugins/{name:.*}/json", plugin, allow_head=False),
        web.post("/build/prune", prune_build_cache),
        web.post("/swarm/leave", leave_swarm_mode),
        web.post("/swarm/init", begin_swarm_mode),
        web.post("/swarm/join", begin_swarm_mode),
    ]
    for method in ("GET", "POST", "DELETE"):
        table += [web.route(method, f"/plugins/{'{rest:.*}'}", no_plugins)]
        for name in SWARM_MODE:
            table += [web.route(method, f"/{name}", no_swarm_mode)]
            table += [web.route(method, f"/{name}/{'{rest:.*}'}", no_swarm_mode)]
    return table
