"""Networks: a local one is made on every node, and its containers are placed at its home; see `merging.copies`."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson
from aiohttp import web

from orlop_swarm.engines.interface import Engine
from orlop_swarm.http import bodies, relaying
from orlop_swarm.http.calling import (
    WORK_WITHIN_S,
    ask_each,
    ask_one,
    chosen,
    engines,
    filters_of,
    of_node,
    prune_each,
    refuse,
    refuse_unless_any,
)
from orlop_swarm.http.homes import home_for
from orlop_swarm.http.problems import NotFound, Problem, answer
from orlop_swarm.http.services import SERVICES
from orlop_swarm.merging import copies
from orlop_swarm.merging.answers import Answer, Document, good, nobody_has_it, refusal
from orlop_swarm.merging.copies import Ambiguous, Shown
from orlop_swarm.merging.filters import Filters
from orlop_swarm.placement.wanted import BUILT_IN

DEFAULT_DRIVER: Final = "bridge"
#: Networks of this driver, and of this scope, belong to a swarm of Docker's own.
OVERLAY: Final = "overlay"
SWARM: Final = "swarm"
#: The filter for what is in use.
USED: Final = '{"dangling":["false"]}'
_ID: Final = re.compile(r"[0-9a-f]{64}")
#: A network of which there is none, quoted: an engine that was only asked to refuse a request changes nothing.
NOWHERE: Final = "/networks/%20"
#: What a copy on a further node takes from the first one.
COPIED: Final = ("Driver", "EnableIPv6", "IPAM", "Internal", "Attachable", "Options", "Labels", "ConfigOnly")


async def listed(request: web.Request) -> web.StreamResponse:
    """GET /networks."""
    filters = filters_of(request)
    asked = chosen(request, filters)
    told = await _networks(request, asked, filters.without(["node"]))
    if unused_only(filters):
        used = await _networks(request, engines(request), USED)
        groups = copies.unused(told, used, copies.of_network)
    else:
        groups = copies.grouped(told, copies.of_network)
    return answer(copies.networks(groups))


async def _networks(request: web.Request, asked: Iterable[Engine], filters: str = "") -> list[Answer]:
    """Raises Problem when no engine answers as it should."""
    query = urlencode({"filters": filters}) if filters else ""
    told = await ask_each(request, asked, "/networks", query=query)
    if told:
        refuse_unless_any(told)
    return told


def unused_only(filters: Filters) -> bool:
    """Is it asked for what nothing uses?"""
    return any(value.lower() in ("1", "true") for value in filters.values.get("dangling", ()))


async def find(request: web.Request, reference: str) -> Shown:
    """The network that is meant. Raises Problem (404; 400 when several are)."""
    groups = copies.grouped(await _networks(request, engines(request)), copies.of_network)
    try:
        found = copies.found(groups, reference)
    except Ambiguous as error:
        raise Problem(400, str(error)) from None
    if found is None:
        raise Problem(404, f"network {reference} not found")
    return found


async def with_ids(request: web.Request, filters: Filters) -> Filters:
    """A filter `network` by an id lets what is in any copy of that network pass. Raises Problem."""
    references = filters.values.get("network", ())
    if not any(map(_ID.fullmatch, references)) or not request.app[SERVICES].pool.engines():
        return filters
    groups = copies.grouped(await _networks(request, engines(request)), copies.of_network)
    ids = [{copy.document["Id"] for copy in one.copies} for one in groups]
    meant = {one for copy_ids in ids if not copy_ids.isdisjoint(references) for one in copy_ids}
    return Filters({**filters.values, "network": [*references, *sorted(meant - set(references))]})


async def show_ids(request: web.Request, told: Iterable[Document]) -> None:
    """Into what engines have told of containers (rows of lists, inspections), the ids of the networks that clients see
    are written instead of those of their copies."""
    ends = [end for one in told for end in _ends(one)]
    known = request.app[SERVICES].network_ids
    if any(end["NetworkID"] not in known for end in ends):
        with contextlib.suppress(Problem):
            groups = copies.grouped(await _networks(request, engines(request)), copies.of_network)
            there = {copy.document["Id"]: one for one in groups for copy in one.copies}
            # What is there no more is told by containers that have stopped.
            shown = {end["NetworkID"]: end["NetworkID"] for end in ends if end["NetworkID"] not in there}
            shown |= {network: one.first["Id"] for network, one in there.items() if copies.home_is_there(one)}
            for network, seen in shown.items():
                known.told(network, seen)
    for end in ends:
        end["NetworkID"] = known.shown(end["NetworkID"])


def _ends(container: Document) -> list[Document]:
    ends = ((container.get("NetworkSettings") or {}).get("Networks") or {}).items()
    return [end for name, end in ends if name not in BUILT_IN and end and end.get("NetworkID")]


async def inspected(request: web.Request) -> web.StreamResponse:
    """GET /networks/{id}."""
    one = await find(request, request.match_info["id"])
    told = await _on_copies(request, one, query=request.rel_url.raw_query_string)
    refuse(nobody_has_it(told))
    return answer(copies.network(copies.of_one(told)))


async def in_use_on(request: web.Request, one: Shown) -> frozenset[str]:
    """Ids of the nodes where containers are in the network."""
    told = await _on_copies(request, one)
    return frozenset(part.node_id for part in good(told) if part.content.get("Containers"))


async def _on_copies(
    request: web.Request, one: Shown, rest: str = "", *, method: str = "GET", query: str = "", body: Any = None
) -> list[Answer]:
    """Asks the engines of all copies, each for its own."""
    paths = {copy.node_id: f"/networks/{quote(copy.document['Id'], safe='')}{rest}" for copy in one.copies}
    asked = [engine for engine in engines(request) if engine.node.id in paths]
    return await ask_each(request, asked, paths, method=method, query=query, body=body, within_s=WORK_WITHIN_S)


async def created(request: web.Request) -> web.StreamResponse:
    """POST /networks/create. `node/name` makes it on that node alone; one that spans nodes is made once."""
    body = await bodies.read(request, bodies.NETWORK)
    if body is None:
        return await bodies.refused_by_one(request, "/networks/create")
    usable = list(engines(request))
    node, slash, name = (body.get("Name") or "").partition("/")
    if slash:
        usable = list(of_node(request, node))
        if not usable:
            raise Problem(404, f"there is no node {node} with an engine that can be used")
        body = {**body, "Name": name}
    if not body.get("Driver"):
        body = {**body, "Driver": DEFAULT_DRIVER}
    if body["Driver"] == OVERLAY or body.get("Scope") == SWARM:
        usable = await _managers(request, usable) or usable
    if not slash:
        home = await home_for(request, usable, body)
        if not (body.get("ConfigFrom") or {}).get("Network"):  # it has no labels but those of the other one
            body = copies.labelled(body, secrets.token_hex(16), home.node.name)
        usable.sort(key=lambda engine: engine is not home)
    told = await _create_on_all(request, usable, body)
    refuse(refusal(told))
    return answer(told[0].content, status=201)


async def _managers(request: web.Request, usable: Iterable[Engine]) -> list[Engine]:
    """Those that are managers of a swarm of Docker's own: its workers refuse to make a network that spans nodes."""
    told = good(await ask_each(request, usable, "/info"))
    manages = {part.node_id for part in told if (part.content.get("Swarm") or {}).get("ControlAvailable")}
    return [engine for engine in usable if engine.node.id in manages]


async def _create_on_all(request: web.Request, usable: Sequence[Engine], body: Document) -> list[Answer]:
    """All or none; what spans nodes once. An engine that is away gets its copy when a container needs it.

    Raises Problem.
    """
    first, others = usable[0], usable[1:]
    made = await _create(request, first, body)
    if made.status == 503 and others:
        return await _create_on_all(request, others, body)
    if not made.good or not others or not await _is_local(request, first, made.content["Id"]):
        return [made]
    more = await ask_each(request, others, "/networks/create", method="POST", body=body, within_s=WORK_WITHIN_S)
    told = [made, *(part for part in more if part.status != 503)]
    refused = [part for part in told if not part.good]
    if refused:
        await _take_back(request, usable, told)
        refuse(refusal(refused))
    return told


async def _create(request: web.Request, engine: Engine, body: Document) -> Answer:
    return await ask_one(request, engine, "/networks/create", method="POST", body=body, within_s=WORK_WITHIN_S)


async def _is_local(request: web.Request, engine: Engine, network_id: str) -> bool:
    told = await ask_one(request, engine, f"/networks/{network_id}")
    return told.good and told.content.get("Scope", "local") == "local"


async def _take_back(request: web.Request, usable: Iterable[Engine], told: Iterable[Answer]) -> None:
    """All or none: what was made before one refused is removed again."""
    made = {part.node_id: f"/networks/{part.content['Id']}" for part in told if part.good}
    asked = [engine for engine in usable if engine.node.id in made]
    await ask_each(request, asked, made, method="DELETE", within_s=WORK_WITHIN_S)


async def connected(request: web.Request) -> web.StreamResponse:
    """POST /networks/{id}/connect and /disconnect: on the engine of the container. Answered when it is stored, so that
    it is not forgotten when the container moves."""
    body = await bodies.read(request, bodies.CONNECTION)
    action = request.rel_url.raw_path.rpartition("/")[2]
    if body is None:
        return await bodies.refused_by_one(request, f"{NOWHERE}/{action}")
    try:
        owner = await request.app[SERVICES].owners.find(body.get("Container") or "")
    except NotFound:
        if action == "connect" or not body.get("Force"):
            raise
        return await _cleared_of(request, body)
    one = await find(request, request.match_info["id"])
    copy = one.on(owner.engine.node.id)
    if action == "connect":
        network_id = await id_on(request, one, owner.engine)
    else:
        network_id = str((copy.document if copy is not None else one.first)["Id"])
    path = f"/networks/{quote(network_id, safe='')}/{action}"
    given = orjson.dumps({**body, "Container": owner.reference})
    plain = await relaying.whole(await relaying.ask(request, owner.engine, path, body=given))
    if plain.status < 300 and owner.id:
        endpoint = (body.get("EndpointConfig") or {}) if action == "connect" else None
        await request.app[SERVICES].containers.changed(owner.id, networks={one.name: endpoint})
    return plain


async def _cleared_of(request: web.Request, body: Document) -> web.StreamResponse:
    """By force also of what is left of a container that is no more, on whichever node."""
    one = await find(request, request.match_info["id"])
    refuse(nobody_has_it(await _on_copies(request, one, "/disconnect", method="POST", body=body)))
    return web.Response(status=200)


async def id_on(request: web.Request, one: Shown, engine: Engine) -> str:
    """The id of the network on that engine, which gets its copy now if it has none."""
    if (copy := one.on(engine.node.id)) is not None:
        return str(copy.document["Id"])
    if one.first.get("Scope", "local") != "local":
        return str(one.first["Id"])
    told = await _create(request, engine, copy_of(one.first))
    refuse(refusal([told]))
    return str(told.content["Id"])


def copy_of(network: Document) -> Document:
    """What a further engine is asked to create."""
    wanted: Document = {member: network[member] for member in COPIED if member in network}
    if not copies.has_chosen_addresses(network):
        # They are the first engine's own choice, and may be taken on another.
        wanted.pop("IPAM", None)
    return {**wanted, "Name": network["Name"], "CheckDuplicate": True}


async def removed(request: web.Request) -> web.StreamResponse:
    """DELETE /networks/{id}: every copy, or none while a container uses one of them."""
    one = await find(request, request.match_info["id"])
    if one.first.get("Scope") == SWARM:
        holding = [engine for engine in engines(request) if one.on(engine.node.id) is not None]
        if managers := await _managers(request, holding):
            # It knows what all nodes use.
            refuse(refusal(await _on_copies(request, _only(one, [managers[0].node.id]), method="DELETE")))
            return web.Response(status=204)
    used = await in_use_on(request, one)
    if used:
        # These engines will refuse; should their containers have gone meanwhile, it is as well.
        told = await _on_copies(request, _only(one, used), method="DELETE")
        refuse(refusal(told, but=(404,)))
    # The one that clients see goes first: it is told of in the pool's events.
    home, *others = [copy.node_id for copy in one.copies]
    for nodes in ([home], others):
        if rest := [node for node in nodes if node not in used]:
            told = await _on_copies(request, _only(one, rest), method="DELETE")
            refuse(refusal(told, but=(404,)))
    return web.Response(status=204)


def _only(one: Shown, nodes: Iterable[str]) -> Shown:
    return Shown(tuple(copy for copy in one.copies if copy.node_id in nodes))


async def prune(request: web.Request) -> web.StreamResponse:
    """POST /networks/prune. What is used on another node stays on all of them."""
    merged = await prune_each(request, "/networks/prune", "NetworksDeleted")
    if merged["NetworksDeleted"]:
        told = await _networks(request, engines(request))
        left = {one.name for one in copies.grouped(told, copies.of_network)}
        merged["NetworksDeleted"] = [name for name in merged["NetworksDeleted"] if name not in left] or None
    return answer(merged)


def routes() -> list[web.RouteDef]:
    return [
        web.get("/networks", listed, allow_head=False),
        web.get("/networks/", listed, allow_head=False),
        web.post("/networks/create", created),
        web.post("/networks/prune", prune),
        web.post("/networks/{id:.*}/connect", connected),
        web.post("/networks/{id:.*}/disconnect", connected),
        web.get("/networks/{id:.*}", inspected, allow_head=False),
        web.delete("/networks/{id:.*}", removed),
    ]
