"""Agents and their tokens: `/v1/agents/…`, `/v1/tokens`.

What agents use (everything under `/v1/agents/`) is not for operators and not guarded as the rest: whoever joins shows
a token, everybody else the certificate that it got for it. Tokens are operators' business.

`GET /v1/agents/cluster` says whom one talks to, before one trusts it. `POST /v1/agents/join` and `…/renew` sign
certificates, `…/confirm` is shown them. `GET /v1/agents/session` and `…/streams/{id}` are WebSockets whose binary
messages are those of `wire` and `streams`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import hdrs, web

from orlop.agent.websocket import WebSocketLink, look_after
from orlop.api.connections import BoundedProtocol
from orlop.api.documents import moment
from orlop.api.finding import find_node
from orlop.api.forwarding import AGENTS_PREFIX
from orlop.api.frames import KnownMessage
from orlop.api.problems import Problem, not_found
from orlop.api.requests import PRINCIPAL, Reader, read_body, read_query, server_of, text, whole
from orlop.api.responses import plain
from orlop.framework import NotAvailable
from orlop.framework import Refused as CommandRefused
from orlop.model.messages import Heartbeat, Hello, Refused, ToAgent, ToServer
from orlop.model.streams import FRAME_BYTES_MAX
from orlop.model.wire import MESSAGE_BYTES_MAX, Dialect, WrongVersion
from orlop.security.tokens import StoredToken
from orlop.server.remote_agents import NotAdmitted, RemoteAgents
from orlop.server.streams import DialledStream

log = logging.getLogger(__name__)

#: What the paths of resources for agents begin with; they have their own guard.
PREFIX: Final = AGENTS_PREFIX
#: Sessions and streams, used and idle, at once.
CONNECTIONS_MAX: Final = 20_000
FIRST_MESSAGE_WITHIN_S: Final = 10.0
#: An agent says something every few seconds.
SILENT_S: Final = 60.0
CLOSE_WITHIN_S: Final = 2.0
REQUEST_CHARACTERS_MAX: Final = 8_000
LIFETIME_S_MAX: Final = 366 * 24 * 3_600
DEFAULT_LIFETIME_S: Final = 24 * 3_600
USES_MAX: Final = 10_000


AGENTS: Final = web.AppKey("agents", RemoteAgents)
CONNECTIONS: Final = web.AppKey("agent-connections", set[asyncio.Task[object]])


def add_agents(application: web.Application, agents: RemoteAgents) -> None:
    """Serves agents and tokens."""
    application[AGENTS] = agents
    application[CONNECTIONS] = set()
    application.router.add_routes(ROUTES)
    application.on_shutdown.append(_end_connections)


async def get_cluster(request: web.Request) -> web.Response:
    read_query(request)
    agents = request.app[AGENTS]
    authorities = agents.authorities
    if agents.auth and authorities is None:
        raise NotAvailable("this server does not know the cluster's authority yet")
    return plain(
        {
            "cluster": agents.cluster_id,
            "name": server_of(request).cluster_name,
            "version": server_of(request).version,
            "session_version": agents.language.newest,
            "authority": authorities.trusted.decode() if authorities is not None else None,
        }
    )


async def join(request: web.Request) -> web.Response:
    read_query(request)
    _leading(request)
    body = await read_body(request, token=text, node=text, certificate_request=_long_text)
    agents = request.app[AGENTS]
    try:
        wanted = (body["certificate_request"] or "").encode()
        certificate = await agents.join(body["token"] or "", body["node"] or "", wanted)
    except NotAdmitted as error:
        raise _refused(request, str(error)) from None
    return _certificate(agents, certificate)


async def renew(request: web.Request) -> web.Response:
    read_query(request)
    _leading(request)
    body = await read_body(request, certificate_request=_long_text)
    agents = request.app[AGENTS]
    try:
        certificate = await agents.renew(_peer_certificate(request), (body["certificate_request"] or "").encode())
    except NotAdmitted as error:
        raise _refused(request, str(error)) from None
    return _certificate(agents, certificate)


async def confirm(request: web.Request) -> web.Response:
    """The node shows the certificate that it has kept."""
    read_query(request)
    _leading(request)
    try:
        await request.app[AGENTS].shown(_peer_certificate(request))
    except NotAdmitted as error:
        raise _refused(request, str(error)) from None
    return plain({})


def _leading(request: web.Request) -> None:
    """Sends agents on to the leader. Raises HTTPTemporaryRedirect, or Problem (503) where there is none."""
    role = server_of(request).role()
    if role.leads:
        return
    if role.leader_url:
        raise web.HTTPTemporaryRedirect(role.leader_url + request.raw_path)
    raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, role.reason or "no server leads at the moment")


def _certificate(agents: RemoteAgents, certificate: bytes) -> web.Response:
    assert agents.authorities is not None, "a certificate was issued"
    return plain(
        {
            "cluster": agents.cluster_id,
            "certificate": certificate.decode(),
            "authority": agents.authorities.trusted.decode(),
        }
    )


async def session(request: web.Request) -> web.StreamResponse:
    read_query(request)
    _leading(request)
    node = _admitted(request)
    with contextlib.suppress(NotAvailable):  # it is shown again
        await request.app[AGENTS].shown(_peer_certificate(request))
    protocol, dialect = _spoken(request)
    async with _connection(request):
        connection = request.protocol if isinstance(request.protocol, BoundedProtocol) else None
        if connection is not None:
            connection.follow_frames()
        socket = await upgraded(request, MESSAGE_BYTES_MAX, [protocol] if protocol is not None else [])
        link: WebSocketLink[ToAgent, ToServer] = WebSocketLink(
            socket,
            dialect.decode_to_server,
            _peer(request, node),
            encode=dialect.encode_in_pieces,
            refusal=lambda reason: Refused(reason=reason),
            check=_checker(node),
            first_within_s=FIRST_MESSAGE_WITHIN_S,
            idle_s=SILENT_S,
            take_out=partial(connection.take_out, _heartbeat(dialect)) if connection is not None else None,
        )
        try:
            # In a task of its own: each message would have to find its way through all the layers of a request.
            await asyncio.create_task(request.app[AGENTS].serve(link))
        finally:
            link.close("the server ends the session")
            await link.finished()
    return socket


@cache
def _heartbeat(dialect: Dialect) -> KnownMessage:
    return KnownMessage(dialect.encode(Heartbeat()))


def _spoken(request: web.Request) -> tuple[str | None, Dialect]:
    """The version of the session, and what to call it. Raises Problem."""
    offered = [one.strip() for one in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]
    try:
        return request.app[AGENTS].language.pick(offered)
    except WrongVersion as error:
        log.warning("an agent at %s is refused: %s", request.remote, error)
        raise Problem(HTTPStatus.UPGRADE_REQUIRED, str(error), hint="upgrade the older one") from None


def _checker(node: str | None) -> Any:
    """Says why a message is not acceptable: the first must be a hello, and a hello of the certificate's own node."""
    greeted = False

    def check(message: ToServer) -> str | None:
        nonlocal greeted
        if isinstance(message, Hello):
            greeted = True
            if node is not None and message.node.id != node:
                return f"the certificate speaks for node {node}, and the hello is of node {message.node.id[:64]}"
        return None if greeted else "a session begins with a hello"

    return check


async def stream(request: web.Request) -> web.StreamResponse:
    read_query(request)
    _leading(request)
    node = _admitted(request)
    agents = request.app[AGENTS]
    claimed = agents.streams.claim(request.match_info["id"], node)
    if claimed is None:
        log.warning("a stream that nobody asked for is refused, from %s", _peer(request, node))
        raise not_found("no stream of this id is wanted from this node")
    async with _connection(request):
        socket = await upgraded(request, FRAME_BYTES_MAX)
        dialled = DialledStream(socket)
        agents.streams.arrived(claimed, dialled)
        try:
            await dialled.closed.wait()
        except asyncio.CancelledError:
            await dialled.close()
            raise
    return socket


async def upgraded(request: web.Request, bytes_max: int, protocols: Sequence[str] = ()) -> web.WebSocketResponse[bool]:
    """The request's WebSocket. bytes_max: of a message. Raises Problem when it is no request for one."""
    socket: web.WebSocketResponse[bool] = web.WebSocketResponse(
        max_msg_size=bytes_max + 1, compress=False, timeout=CLOSE_WITHIN_S, protocols=protocols
    )
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise Problem(HTTPStatus.UPGRADE_REQUIRED, "expected a WebSocket", headers={hdrs.UPGRADE: "websocket"})
    if request.transport is not None:
        look_after(request.transport.get_extra_info("socket"))
    await socket.prepare(request)
    return socket


@asynccontextmanager
async def _connection(request: web.Request) -> AsyncIterator[None]:
    """While a connection lasts. Raises Problem (503) when there are too many already."""
    connections = request.app[CONNECTIONS]
    if len(connections) >= CONNECTIONS_MAX:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"{CONNECTIONS_MAX} connections of agents are open already",
            headers={hdrs.RETRY_AFTER: "5"},
        )
    current = cast(asyncio.Task[object], asyncio.current_task())
    connections.add(current)
    if isinstance(request.protocol, BoundedProtocol):
        request.protocol.leave()
    try:
        yield
    finally:
        connections.discard(current)


async def _end_connections(application: web.Application) -> None:
    """At shutdown: agents dial again, and must not hold up the stop."""
    connections = application[CONNECTIONS]
    for connection in tuple(connections):
        connection.cancel()


def _admitted(request: web.Request) -> str | None:
    """The node that asks; None while there are no certificates. Raises Problem."""
    try:
        node = request.app[AGENTS].node_of(_peer_certificate(request))
    except NotAdmitted as error:
        raise _refused(request, str(error)) from None
    if (prove := getattr(request.protocol, "proven", None)) is not None:
        prove()
    return node


def _peer_certificate(request: web.Request) -> bytes | None:
    """The client's certificate as DER, which TLS has checked; None without one."""
    tls = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
    return tls.getpeercert(binary_form=True) if tls is not None else None


def _refused(request: web.Request, reason: str) -> Problem:
    log.warning("an agent at %s is refused: %s", request.remote, reason)
    return Problem(HTTPStatus.FORBIDDEN, reason)


def _peer(request: web.Request, node: str | None) -> str:
    return f"node {node} at {request.remote}" if node is not None else str(request.remote)


def _long_text(value: str) -> str:
    if len(value) > REQUEST_CHARACTERS_MAX or not value.isascii():
        raise ValueError(f"expected at most {REQUEST_CHARACTERS_MAX} ASCII characters")
    return value


# Tokens: for operators


async def create_token(request: web.Request) -> web.Response:
    """201 with the token, which is shown this once."""
    read_query(request)
    body = await read_body(request, lifetime_s=_lifetime, uses=whole(1, USES_MAX), node=text, note=text)
    lifetime_s = DEFAULT_LIFETIME_S if body["lifetime_s"] is None else body["lifetime_s"]
    try:
        token, stored = await request.app[AGENTS].create_join_token(
            lifetime_ms=lifetime_s * 1000,
            uses_max=body["uses"] or 1,
            node=body["node"] or "",
            note=body["note"] or "",
            by=PRINCIPAL.get(),
        )
    except (NotAdmitted, CommandRefused) as error:
        raise Problem(HTTPStatus.CONFLICT, str(error)) from None
    document = _document(token.id, stored, stored.created_utc_ms)
    return plain({"token": token.text, **document}, HTTPStatus.CREATED)


async def list_tokens(request: web.Request) -> web.Response:
    read_query(request)
    now_ms = server_of(request).state().utc_ms
    tokens = request.app[AGENTS].tokens()
    return plain({"tokens": [_document(token_id, token, now_ms) for token_id, token in tokens.items()]})


async def revoke_token(request: web.Request) -> web.Response:
    read_query(request)
    token_id = request.match_info["id"]
    try:
        changed = await request.app[AGENTS].revoke_token(token_id, PRINCIPAL.get())
    except CommandRefused as error:
        raise not_found(str(error)) from None
    return plain({"id": token_id, "changed": changed})


async def expel_node(request: web.Request) -> web.Response:
    """Its certificate is good for nothing from now on; its tasks are those of a node that has fallen silent."""
    read_query(request)
    node = find_node(server_of(request).state(), request.match_info["id"])
    changed = await request.app[AGENTS].expel(node.id, PRINCIPAL.get())
    return plain({"node": node.id, "changed": changed})


def _document(token_id: str, token: StoredToken, now_ms: int) -> dict[str, Any]:
    return {
        "id": token_id,
        "purpose": token.purpose.value,
        "note": token.note,
        "created": moment(token.created_utc_ms),
        "expires": moment(token.expires_utc_ms),
        "uses": token.uses,
        "uses_max": token.uses_max if token.purpose.value == "join" else None,
        "node": token.node,
        "state": _state(token, now_ms),
    }


def _state(token: StoredToken, now_ms: int) -> str:
    if token.revoked:
        return "revoked"
    if token.expires_utc_ms and now_ms >= token.expires_utc_ms:
        return "expired"
    return "used up" if token.purpose.value == "join" and token.uses >= token.uses_max else "good"


_lifetime: Final[Reader] = whole(0, LIFETIME_S_MAX)

ROUTES: Final = [
    web.get("/v1/agents/cluster", get_cluster),
    web.post("/v1/agents/join", join),
    web.post("/v1/agents/renew", renew),
    web.post("/v1/agents/confirm", confirm),
    web.get("/v1/agents/session", session, allow_head=False),
    web.get("/v1/agents/streams/{id}", stream, allow_head=False),
    web.post("/v1/tokens", create_token),
    web.get("/v1/tokens", list_tokens),
    web.delete("/v1/tokens/{id}", revoke_token),
    web.delete("/v1/nodes/{id}/admission", expel_node),
]
