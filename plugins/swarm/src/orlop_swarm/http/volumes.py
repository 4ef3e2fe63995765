"""Volumes: a local one is on one node, where its users are placed; see `merging.copies`."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote, urlencode

import orjson
from aiohttp import web

from orlop_swarm.engines.interface import Engine
from orlop_swarm.http import bodies, volume_places
from orlop_swarm.http.calling import (
    WORK_WITHIN_S,
    ask_each,
    chosen,
    engines,
    filters_of,
    of_node,
    prune_each,
    refuse,
    refuse_unless_any,
)
from orlop_swarm.http.homes import home_for
from orlop_swarm.http.networks import USED, unused_only
from orlop_swarm.http.problems import Problem, answer
from orlop_swarm.http.services import SERVICES
from orlop_swarm.merging import copies
from orlop_swarm.merging.answers import Answer, Document, good, in_order, nobody_has_it, refusal

#: The driver of engines themselves.
LOCAL: Final = "local"


async def listed(request: web.Request) -> web.StreamResponse:
    """GET /volumes."""
    filters = filters_of(request)
    asked = chosen(request, filters)
    told = await _volumes(request, asked, filters.without(["node"]))
    if unused_only(filters):
        used = await _volumes(request, engines(request), USED)
        groups = copies.unused(told, used, copies.of_volume, "Volumes")
    else:
        groups = copies.grouped(told, copies.of_volume, "Volumes")
    warnings = [line for part in good(told) for line in part.content.get("Warnings") or ()]
    warnings += [f"{part.node}: {part.content}" for part in in_order(told) if not part.good]
    return answer(copies.volumes(groups, dict.fromkeys(warnings)))


async def _volumes(request: web.Request, asked: Iterable[Engine], filters: str) -> list[Answer]:
    query = urlencode({"filters": filters}) if filters else ""
    told = await ask_each(request, asked, "/volumes", query=query)
    if told:
        refuse_unless_any(told)
    return told


def _meant(request: web.Request, reference: str) -> tuple[Sequence[Engine], str]:
    """The engines and the bare name of `name` or `node/name`."""
    node, slash, name = reference.partition("/")
    return (of_node(request, node), name) if slash else (engines(request), reference)


def _path(name: str) -> str:
    return f"/volumes/{quote(name, safe='')}"


async def inspected(request: web.Request) -> web.StreamResponse:
    """GET /volumes/{name}."""
    reference = request.match_info["name"]
    asked, name = _meant(request, reference)
    told = await ask_each(request, asked, _path(name))
    _refuse_unknown(told, reference)
    return answer(copies.volume(copies.of_one(told)))


def _refuse_unknown(told: Sequence[Answer], reference: str) -> None:
    """Raises Problem (404)."""
    if not told:
        raise Problem(404, f"get {reference}: no such volume")
    refuse(nobody_has_it(told))


async def created(request: web.Request) -> web.StreamResponse:
    """POST /volumes/create. What a driver shares among nodes is made on all of them."""
    body = await bodies.read(request, bodies.VOLUME)
    if body is None:
        return await bodies.refused_by_one(request, "/volumes/create")
    asked, name = _meant(request, body.get("Name") or secrets.token_hex(32))
    if not asked:
        raise Problem(404, f"there is no node for the volume {body['Name']} with an engine that can be used")
    if (body.get("Driver") or LOCAL) == LOCAL:
        asked = await _where_it_is(request, asked, name, body)
    told = await ask_each(
        request, asked, "/volumes/create", method="POST", body={**body, "Name": name}, within_s=WORK_WITHIN_S
    )
    refuse_unless_any(told)
    # One that is away makes it when a container needs it.
    refuse(refusal(part for part in told if part.status != 503))
    return answer(copies.volume(copies.of_one(told)), status=201)


async def _where_it_is(request: web.Request, asked: Sequence[Engine], name: str, body: Document) -> Sequence[Engine]:
    """The engines that have it: to create it anew changes nothing there. Or the one that shall have it.

    Raises Problem (503): it is on a node that cannot be used, and shall not be made anew and empty elsewhere.
    """
    services = request.app[SERVICES]
    may_be_away = "/" not in str(body.get("Name")) and services.volumes.nodes(name)
    if len(asked) == 1 and not may_be_away:
        return asked
    told = await ask_each(request, asked, _path(name))
    if there := {part.node_id for part in good(told)}:
        return [engine for engine in asked if engine.node.id in there]
    if may_be_away:
        silent = {part.node: str(part.content) for part in told if part.status == 503}
        node = services.volumes.one_of(name, volume_places.away_among(services.pool.nodes(), silent))
        if node is not None:
            raise Problem(503, volume_places.where(name, node))
    return asked if len(asked) == 1 else [await home_for(request, asked, body)]


async def removed(request: web.Request) -> web.StreamResponse:
    """DELETE /volumes/{name}: every copy, or none while a container uses one of them."""
    reference = request.match_info["name"]
    asked, name = _meant(request, reference)
    filters = orjson.dumps({"volume": [name]}).decode()
    using = await ask_each(request, asked, "/containers/json", query=urlencode({"all": "1", "filters": filters}))
    used = {part.node_id for part in good(using) if part.content}
    query = request.rel_url.raw_query_string
    told: list[Answer] = []
    for engines_now in (
        [engine for engine in asked if engine.node.id in used],
        [engine for engine in asked if engine.node.id not in used],
    ):
        told += await ask_each(request, engines_now, _path(name), method="DELETE", query=query, within_s=WORK_WITHIN_S)
        refuse(refusal(told, but=(404,)))
    _refuse_unknown(told, reference)
    return web.Response(status=204)


async def prune(request: web.Request) -> web.StreamResponse:
    """POST /volumes/prune. What is still used on another node is not told as deleted: it is there."""
    merged = await prune_each(request, "/volumes/prune", "VolumesDeleted")
    if merged["VolumesDeleted"]:
        left = await _volumes(request, engines(request), "")
        names = {one.name for one in copies.grouped(left, copies.of_volume, "Volumes")}
        merged["VolumesDeleted"] = [name for name in merged["VolumesDeleted"] if name not in names]
    return answer(merged)


def routes() -> list[web.RouteDef]:
    return [
        web.get("/volumes", listed, allow_head=False),
        web.post("/volumes/create", created),
        web.post("/volumes/prune", prune),
        web.get("/volumes/{name:.*}", inspected, allow_head=False),
        web.delete("/volumes/{name:.*}", removed),
    ]
