"""`GET /containers/json`: every engine's list, as one."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from orlop_swarm.http import relaying
from orlop_swarm.http.calling import ANSWER_WITHIN_S, WORK_WITHIN_S, filters_of
from orlop_swarm.http.finding import own_names
from orlop_swarm.http.networks import show_ids, with_ids
from orlop_swarm.http.problems import NotFound, answer
from orlop_swarm.http.services import SERVICES, is_true
from orlop_swarm.merging.containers import is_kept_row
from orlop_swarm.merging.filters import Filters
from orlop_swarm.merging.listing import Boundary, Listed, Row, doubtful, listing, lost_rows


def routes() -> list[web.RouteDef]:
    return [web.get("/containers/json", containers, allow_head=False)]


async def containers(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    filters = await with_ids(request, filters_of(request))
    engines = [engine for engine in services.pool.engines() if filters.chooses(engine.node.name, engine.node.id)]
    before, since = await _boundary(request, filters, "before"), await _boundary(request, filters, "since")
    queries = [_query(request, filters, engine.node.id, before, since) for engine in engines]
    within_s = WORK_WITHIN_S if is_true(request.query.get("size", "")) else ANSWER_WITHIN_S
    answers = await relaying.ask_each(request, engines, "/containers/json", queries, within_s)
    refused = next((one for one in answers if one is not None and one.status >= 400), None)
    if refused is not None:
        return refused
    is_old = await services.containers.left_behind()
    lists = []
    for engine, one in zip(engines, answers, strict=True):
        if one is not None:
            told = orjson.loads(relaying.content(one))
            rows = [row for row in told if not is_kept_row(row) and not is_old(_name(row), row.get("Labels") or {})]
            await show_ids(request, rows)
            lists.append(Listed(node=engine.node, rows=rows, address=services.published_on(engine.node)))
    nodes = {node.id: node for node in services.pool.nodes()}
    everything = is_true(request.query.get("all", "")) or bool(_limit(request)) or "status" in filters.values
    silent = {engine.node.id for engine, one in zip(engines, answers, strict=True) if one is None}
    lost = lost_rows(await services.containers.out_of_reach(silent), nodes, filters) if everything else []
    limit = _limit(request)
    by_node = {engine.node.id: engine for engine in engines}
    unclear = [(by_node[listed.node.id], container) for listed, container in doubtful(lists, limit, (before, since))]
    moments = await services.owners.moments(unclear)
    rows = listing(lists, lost, names=services.names, limit=limit, before=before, since=since, moments=moments)
    return answer(rows)


def _name(row: Row) -> str:
    return next(iter(own_names(row.get("Names") or ())), "")


async def _boundary(request: web.Request, filters: Filters, name: str) -> Boundary | None:
    """The container of the filter `before` or `since`."""
    references = filters.values.get(name, ())
    if not references:
        return None
    try:
        held = await request.app[SERVICES].owners.look(references[0])
    except NotFound:
        return None  # an engine says it in its own words
    return Boundary.at(held.engine.node, held.created)


def _query(request: web.Request, filters: Filters, node: str, before: Boundary | None, since: Boundary | None) -> str:
    """What this engine is asked: the client's query, without what only the pool or another engine knows."""
    dropped = {"node"}
    dropped |= {name for name, one in (("before", before), ("since", since)) if one and one.node != node}
    kept: dict[str, Any] = dict(request.query)
    kept.pop("filters", None)
    rest = filters.without(dropped)
    if rest:
        kept["filters"] = rest
    return urlencode(kept)


def _limit(request: web.Request) -> int:
    try:
        return max(int(request.query.get("limit", "0") or 0), 0)
    except ValueError:
        return 0
