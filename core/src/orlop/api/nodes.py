"""Nodes: `/v1/nodes`, and draining them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from orlop.api.documents import node_detail, node_document
from orlop.api.finding import find_node
from orlop.api.requests import Reader, cause_of, read_body, read_query, server_of, text, whole
from orlop.api.responses import answer, answer_list
from orlop.kernel.events import DrainNode

DEADLINE_S_MAX: Final = 30 * 24 * 3_600


async def list_nodes(request: web.Request) -> web.Response:
    read_query(request)
    state = server_of(request).state()
    return await answer_list(state, "nodes", lambda: (node_document(state, node) for node in state.nodes()))


async def get_node(request: web.Request) -> web.Response:
    read_query(request)
    state = server_of(request).state()
    node = find_node(state, request.match_info["id"])
    return await answer(state, lambda: node_detail(state, node))


def _draining(drained: bool) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def drain(request: web.Request) -> web.Response:
        read_query(request)
        readers: dict[str, Reader] = {"reason": text}
        if drained:
            readers["deadline_s"] = whole(0, DEADLINE_S_MAX)
        body = await read_body(request, **readers)
        server = server_of(request)
        node = find_node(server.state(), request.match_info["id"])
        seconds = body.get("deadline_s")
        within_ms = seconds * 1000 if seconds is not None else None
        cause = cause_of(body["reason"])
        await server.submit(DrainNode(node=node.id, drained=drained, cause=cause, within_ms=within_ms))
        state = server.state()
        now = state.node(node.id) or node
        return await answer(state, lambda: {"node": node_document(state, now)})

    return drain


ROUTES: Final = [
    web.get("/v1/nodes", list_nodes),
    web.get("/v1/nodes/{id}", get_node),
    web.post("/v1/nodes/{id}/drain", _draining(True)),
    web.post("/v1/nodes/{id}/undrain", _draining(False)),
]
