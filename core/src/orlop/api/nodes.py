"""Nodes: `/v1/nodes`, draining them, and forgetting those that are gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web

from orlop.api.agents import AGENTS
from orlop.api.documents import clock_document, node_detail, node_document
from orlop.api.finding import find_node
from orlop.api.problems import Problem
from orlop.api.requests import PRINCIPAL, Reader, cause_of, read_body, read_query, server_of, text, whole
from orlop.api.responses import answer, answer_list, plain
from orlop.kernel.events import DrainNode, ForgetNode
from orlop.model.nodes import NodeState

DEADLINE_S_MAX: Final = 30 * 24 * 3_600


async def list_nodes(request: web.Request) -> web.Response:
    read_query(request)
    server = server_of(request)
    state, ahead_ms = server.state(), server.clocks().ahead_ms
    return await answer_list(
        state,
        "nodes",
        lambda: (node_document(state, node) | clock_document(ahead_ms.get(node.id)) for node in state.nodes()),
    )


async def get_node(request: web.Request) -> web.Response:
    read_query(request)
    server = server_of(request)
    state, ahead_ms = server.state(), server.clocks().ahead_ms
    node = find_node(state, request.match_info["id"])
    return await answer(state, lambda: node_detail(state, node) | clock_document(ahead_ms.get(node.id)))


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


async def forget_node(request: web.Request) -> web.Response:
    """Only one that is gone, for what was on it counts as lost then. Its admission is taken back: to return, it needs
    another token."""
    asked = read_query(request, reason=text)
    server = server_of(request)
    node = find_node(server.state(), request.match_info["id"])
    if node.state is NodeState.GONE:
        if (agents := request.app.get(AGENTS)) is not None:
            await agents.expel(node.id, PRINCIPAL.get())
        if await server.submit(ForgetNode(node=node.id, cause=cause_of(asked["reason"]))):
            return plain({"node": node.id, "name": node.info.name})
        node = server.state().node(node.id) or node
    raise Problem(
        HTTPStatus.CONFLICT,
        f"node {node.info.name} is {node.state.value}: only a node that is gone can be forgotten",
        hint="Stop its agent, and wait until it counts as gone.",
    )


ROUTES: Final = [
    web.get("/v1/nodes", list_nodes),
    web.get("/v1/nodes/{id}", get_node),
    web.delete("/v1/nodes/{id}", forget_node),
    web.post("/v1/nodes/{id}/drain", _draining(True)),
    web.post("/v1/nodes/{id}/undrain", _draining(False)),
]
