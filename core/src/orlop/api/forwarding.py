"""What a standby does with requests: it hands them to the leader, or says how old its own knowledge is.

Bodies are streamed both ways, upgraded connections go on as raw bytes, and the client's own credentials go along, so
that the leader decides who may do what. A request that was handed on once is not handed on again. If the leader cannot
be reached, reading requests are answered from this server's mirror, with the headers `Orlop-Stale-Ms` and `Warning`;
all others get 503, which says whether nothing was changed or nobody knows. They are never sent twice. A leader that was
reached may take as long as it likes to answer, while it leads: one that stands still loses the lead, and then nobody
waits for it any more.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from http import HTTPStatus
from typing import Final, Protocol

import aiohttp
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from multidict import CIMultiDict
from yarl import URL

from orlop.api.guard import Handler
from orlop.api.listening import KNOWN_HERE
from orlop.api.problems import Problem
from orlop.api.upgrading import hand_on_upgrade
from orlop.security.vouching import HEADER, Vouching
from orlop.server.role import Role

log = logging.getLogger(__name__)

FORWARDED: Final = "Orlop-Forwarded"
STALE: Final = "Orlop-Stale-Ms"
CONNECT_TIMEOUT_S: Final = 3.0
#: How often whoever waits for the leader's answer looks whether it still leads.
LOOK_S: Final = 0.5
READING: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
#: About this very server, so never handed on.
OWN_PATHS: Final = frozenset({"/health", "/metrics"})
#: Agents speak with the leader themselves, for their certificates end here: they are told where it is.
AGENTS_PREFIX: Final = "/v1/agents/"

#: What this server is, while it handles a request that it does not hand on: for applications mounted in others.
_STANDBY: Final[ContextVar[Role | None]] = ContextVar("standby", default=None)

_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "host", "origin"}  # this server has looked at where the page comes from
)  # fmt: skip


class Forwards(Protocol):
    """The part of a server that decides where requests go."""

    def role(self) -> Role: ...


def forwarding(
    server: Forwards,
    session: Callable[[], aiohttp.ClientSession],
    prefix: str = "",
    trust: Callable[[], ssl.SSLContext] | None = None,
    vouching: Callable[[], Vouching] | None = None,
) -> Middleware:
    """The middleware for the operator API, or, with the `prefix` it is mounted under, for a plugin's listener.

    trust: for connections to the leader over TLS. vouching: for clients that are known here without credentials that
    could go along.
    """

    @web.middleware
    async def forward(request: web.Request, handler: Handler) -> web.StreamResponse:
        role = server.role()
        if role.leads or _STANDBY.get() is not None or (not prefix and _is_own(request)):
            return await _led(request, handler, server)
        if role.leader_url and FORWARDED not in request.headers:
            target = URL(role.leader_url + prefix + request.raw_path, encoded=True)

            def leads() -> bool:
                return server.role().leader_url == role.leader_url

            headers = _headers(request)
            if vouching is not None and (known := KNOWN_HERE.get()):
                headers[HEADER] = vouching().vouch(known, request.method, target.raw_path_qs)
            context = trust() if trust is not None else None
            try:
                response = await _to_leader(request, target, headers, session(), context, leads)
            except Problem as problem:
                return problem.response(for_plugins=True)
            if response is not None:
                return response
        if request.method not in READING:
            refused = Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"nothing was changed: {_reason(role)}")
            return refused.response(for_plugins=True)
        token = _STANDBY.set(role)
        try:
            return _marked_stale(await handler(request), role)
        finally:
            _STANDBY.reset(token)

    return forward


def _is_own(request: web.Request) -> bool:
    return request.path in OWN_PATHS or request.path.startswith(AGENTS_PREFIX)


async def _led(request: web.Request, handler: Handler, server: Forwards) -> web.StreamResponse:
    """A read is an effect too: it counts as the leader's if this server still leads when it is answered."""
    response = await handler(request)
    role = server.role()
    if not role.leads and request.method in READING and _STANDBY.get() is None and not _is_own(request):
        return _marked_stale(response, role)
    return response


def _reason(role: Role) -> str:
    if role.leader_url:
        return f"the leader at {role.leader_url} cannot be reached"
    return role.reason or "no server leads at the moment"


def mark_if_stale(response: web.StreamResponse) -> None:
    """For applications that send the answers of others."""
    role = _STANDBY.get()
    if role is not None:
        _marked_stale(response, role)


def _marked_stale(response: web.StreamResponse, role: Role) -> web.StreamResponse:
    """Says how old the answer may be, unless it is on its way already."""
    if not response.prepared:
        response.headers[STALE] = str(role.stale_ms)
        response.headers["Warning"] = f'110 orlop "Response is Stale: {_reason(role)}"'
    return response


async def _to_leader(
    request: web.Request,
    target: URL,
    headers: CIMultiDict[str],
    session: aiohttp.ClientSession,
    trust: ssl.SSLContext | None,
    leads: Callable[[], bool],
) -> web.StreamResponse | None:
    """The leader's answer; None when the leader was not reached, so that nothing has happened. leads: does it still?"""
    if hdrs.UPGRADE in request.headers:
        return await hand_on_upgrade(request, target, headers, trust)

    async def ask() -> aiohttp.ClientResponse:
        return await session.request(
            request.method,
            target,
            headers=headers,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
            ssl=trust if trust is not None else True,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=None),
        )

    try:
        answer = await _while_it_leads(asyncio.ensure_future(ask()), leads)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        log.info("the leader cannot be reached: %s", error)
        return None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if request.method in READING:
            return None
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, f"the outcome is not known: the leader vanished: {error}"
        ) from None
    try:
        return await _relay(request, answer)
    finally:
        answer.close()


async def _while_it_leads(
    asking: asyncio.Future[aiohttp.ClientResponse], leads: Callable[[], bool]
) -> aiohttp.ClientResponse:
    """Raises what asking raises; TimeoutError when the leader does not answer and leads no more."""
    try:
        while True:
            done, _ = await asyncio.wait([asking], timeout=LOOK_S)
            if done:
                return asking.result()
            if not leads():
                raise TimeoutError("it leads no more, and has not answered")
    finally:
        if not asking.done():
            asking.cancel()
            await asyncio.wait([asking])


async def _relay(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in _kept(answer.headers.items()):
        response.headers.add(name, value)
    await response.prepare(request)
    try:
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
    except (aiohttp.ClientError, ConnectionError) as error:
        # The head is out: all that is left is to break off, which a client can tell from an end.
        log.info("an answer of the leader broke off: %s", error)
        if request.transport is not None:
            request.transport.abort()
    return response


def _headers(request: web.Request) -> CIMultiDict[str]:
    kept = CIMultiDict(_kept(request.headers.items()))
    kept.popall(HEADER, None)  # that is for this server to say
    kept[FORWARDED] = "1"
    return kept


def _kept(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Without those that are about one connection."""
    pairs = list(headers)
    named = {
        token.strip().lower() for name, value in pairs if name.lower() == "connection" for token in value.split(",")
    }
    return [(name, value) for name, value in pairs if name.lower() not in _HOP_BY_HOP | named]


def client_session() -> aiohttp.ClientSession:
    """For requests to the leader: nothing is unpacked on the way, no cookies are kept, and nothing is sent twice."""
    session = aiohttp.ClientSession(
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
        skip_auto_headers=[hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE],
    )
    # aiohttp sends PUT and DELETE again when a kept connection breaks off, as if no API gave them another meaning; its
    # own test client turns that off like this.
    session._retry_connection = False
    return session
