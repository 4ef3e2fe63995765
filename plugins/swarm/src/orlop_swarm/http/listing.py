"""`GET /containers/json`: every engine's list, as one."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson
from aiohttp import web

from orlop_swarm.http import relaying
from orlop_swarm.http.problems import Problem, answer
from orlop_swarm.http.services import SERVICES
from orlop_swarm.merging.filters import BadFilters, Filters
from orlop_swarm.merging.listing import Boundary, Listed, listing, lost_rows


def routes() -> list[web.RouteDef]:
    return [web.get("/containers/json", containers, allow_head=False)]


async def containers(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    filters = _filters(request)
    engines = [engine for engine in services.pool.engines() if filters.chooses(engine.node.name, engine.node.id)]
    before, since = await _boundary(request, filters, "before"), await _boundary(request, filters, "since")
    queries = [_query(request, filters, engine.node.id, before, since) for engine in engines]
    answers = await relaying.ask_each(request, engines, "/containers/json", queries)
    refused = next((one for one in answers if one is not None and one.status >= 400), None)
    if refused is not None:
        return refused
    lists = []
    for engine, one in zip(engines, answers, strict=True):
        if one is not None:
            rows = orjson.loads(relaying.content(one))
            lists.append(Listed(node=engine.node, rows=rows, address=services.published_on(engine.node)))
    nodes = {node.id: node for node in services.pool.nodes()}
    everything = _is_true(request.query.get("all", "")) or bool(_limit(request)) or "status" in filters.values
    lost = lost_rows(await services.containers.out_of_reach(), nodes, filters) if everything else []
    rows = listing(lists, lost, names=services.names, limit=_limit(request), before=before, since=since)
    return answer(rows)


def _filters(request: web.Request) -> Filters:
    """Raises Problem (400)."""
    try:
        return Filters.parse(request.query.get("filters", ""))
    except BadFilters as error:
        raise Problem(400, str(error)) from None


async def _boundary(request: web.Request, filters: Filters, name: str) -> Boundary | None:
    """The container of the filter `before` or `since`. Raises Problem (404)."""
    references = filters.values.get(name, ())
    if not references:
        return None
    held = await request.app[SERVICES].owners.look(references[0])
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


def _is_true(value: str) -> bool:
    """As an engine reads a flag."""
    return value.strip().lower() not in ("", "0", "no", "false", "none")
