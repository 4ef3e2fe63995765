"""Commands in containers: an engine's own business, once it is found by the container or by the command's id."""

from __future__ import annotations

from urllib.parse import quote

import orjson
from aiohttp import hdrs, web

from orlop_swarm.http import bodies, relaying
from orlop_swarm.http.containers import asked
from orlop_swarm.http.finding import Owner
from orlop_swarm.http.problems import NotFound
from orlop_swarm.http.services import SERVICES


def routes() -> list[web.RouteDef]:
    return [
        web.post("/containers/{name:.+}/exec", create),
        web.get("/exec/{id}/json", on_owner, allow_head=False),
        web.post("/exec/{id}/resize", on_owner),
        web.post("/exec/{id}/start", start),
    ]


async def create(request: web.Request) -> web.StreamResponse:
    owner, response = await asked(request, "/exec")
    plain = await relaying.whole(response)
    if plain.status == 201:
        request.app[SERVICES].owners.exec_seen(owner.engine.node.id, orjson.loads(relaying.content(plain))["Id"])
    return plain


async def on_owner(request: web.Request) -> web.StreamResponse:
    exec_id = request.match_info["id"]
    rest = "json" if request.method == hdrs.METH_GET else "resize"
    owner = await _owner_of(request, exec_id)
    return await relaying.relay(request, owner.engine, f"/exec/{quote(exec_id, safe='')}/{rest}")


async def start(request: web.Request) -> web.StreamResponse:
    """Detached it is an ordinary request; else the connection becomes the command's input and output."""
    exec_id = request.match_info["id"]
    owner = await _owner_of(request, exec_id)
    path = f"/exec/{quote(exec_id, safe='')}/start"
    if _is_detached(await relaying.small_body(request)):
        return await relaying.relay(request, owner.engine, path)
    return await relaying.upgrade(request, owner.engine, path)


async def _owner_of(request: web.Request, exec_id: str) -> Owner:
    """Raises NotFound, NotAvailable."""
    services = request.app[SERVICES]
    try:
        return await services.owners.exec(exec_id)
    except NotFound:
        for engine in services.pool.engines():
            return Owner(engine=engine, reference=exec_id, id="", sure=True)
        raise


def _is_detached(body: bytes) -> bool:
    """What cannot be read is for the engine to refuse."""
    try:
        options = bodies.shaped(bodies.decoded(body), {"Detach": bool})
    except bodies.Misfit:
        return True
    return bool(options and options.get("Detach"))
