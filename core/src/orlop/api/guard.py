"""Who may speak to an API without authentication: programs and people of this machine, and no web page.

Listening on loopback only does not keep a browser's pages out: any page may send requests to 127.0.0.1, and one
whose own name is made to point there (DNS rebinding) may even read the answers. And a reverse proxy on this machine
would open the API to whomever it serves. So, without authentication, a request must name a loopback host, come from
no foreign page, and have passed no proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from yarl import URL

from orlop.api.problems import Problem
from orlop.api.requests import PRINCIPAL
from orlop.framework import NotAvailable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Gives the principal's name; raises Problem (401, 403).
Authenticate = Callable[[web.Request], Awaitable[str]]

#: The principal of requests whose own guard is still to come.
UNPROVEN: Final = ""
#: What the names of routes to plugins begin with.
PLUGIN_ROUTE: Final = "plugin-"

#: Clients call a server by few names, and come from few addresses.
HOSTS_REMEMBERED: Final = 256
_FORWARDING: Final = frozenset({"forwarded", "via", "x-real-ip"})
_HINT: Final = "without authentication only programs of this machine are served"


@lru_cache(HOSTS_REMEMBERED)
def is_loopback(host: str) -> bool:
    """Is this a name or address, without a port, of the machine itself?"""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def refusal(hosts: Collection[str], origin: str | None, headers: Collection[str], peer: str | None) -> str | None:
    """Why a request without authentication is not served; None when it is.

    hosts: all its Host headers. headers: the names of all headers, in lower case. peer: its address, None for a Unix
    socket's.
    """
    if len(hosts) != 1:
        return "a request needs exactly one Host header"
    (host,) = hosts
    name, port = _split(host)
    if not is_loopback(name):
        return f"the Host {host!r} is not a name of this machine, and authentication is off"
    if origin is not None and not _same_origin(origin, name, port):
        return f"the request comes from a page of {origin!r}, and authentication is off"
    forwarding = sorted(one for one in headers if one in _FORWARDING or one.startswith("x-forwarded-"))
    if forwarding:
        return f"the request was forwarded ({', '.join(forwarding)}), and authentication is off"
    if peer is not None and not is_loopback(peer):
        return f"the request comes from {peer}, and authentication is off"
    return None


@lru_cache(HOSTS_REMEMBERED)
def _split(host: str, scheme: str = "http") -> tuple[str, int]:
    """Name and port; an empty name for what is not a host."""
    try:
        url = URL(f"{scheme}://{host}")
    except ValueError:
        return "", 0
    if url.raw_user is not None or url.raw_path not in ("", "/") or url.raw_query_string or url.raw_fragment:
        return "", 0
    return url.raw_host or "", url.port or 0


def _same_origin(origin: str, name: str, port: int) -> bool:
    try:
        url = URL(origin)
    except ValueError:
        return False
    return url.scheme in ("http", "https") and (url.raw_host, url.port) == (name, port)


def foreign_page(request: web.Request) -> Problem | None:
    """The refusal (403) of what a browser asks for a page of another site; None when it does not."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or _same_origin(origin, *_split(request.headers.get(hdrs.HOST, ""), request.scheme)):
        return None
    return Problem(HTTPStatus.FORBIDDEN, f"the request comes from a page of {origin!r}")


@web.middleware
async def loopback_guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serves this machine only; 403 with the reason otherwise. For plugins' own listeners as well."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    why = refusal(
        request.headers.getall(hdrs.HOST, []),
        request.headers.get(hdrs.ORIGIN),
        {name.lower() for name in request.headers},
        peer[0] if isinstance(peer, tuple) else None,
    )
    if why is not None:
        return Problem(HTTPStatus.FORBIDDEN, why, hint=_HINT).response(for_plugins=True)
    return await handler(request)


def authentication(authenticate: Authenticate) -> Middleware:
    """The middleware that asks `authenticate` about each request."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            principal = await authenticate(request)
        except Problem as problem:
            return problem.response(for_plugins=True)
        except NotAvailable as error:
            # A server that has just started knows nobody yet. Plugins' listeners have nobody else to answer this.
            refused = Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"nothing was changed: {error}")
            return refused.response(for_plugins=True)
        prove = getattr(request.protocol, "proven", None)
        if prove is not None and principal != UNPROVEN:
            prove()
        token = PRINCIPAL.set(principal)
        try:
            return await handler(request)
        finally:
            PRINCIPAL.reset(token)

    return guard


_OWN_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """On each response of the API's own; what a resource has set stays. Plugins' routes decide on theirs."""
    if is_own(request):
        response.headers[hdrs.SERVER] = "orlop"
        for name, value in _OWN_HEADERS.items():
            response.headers.setdefault(name, value)


def is_own(request: web.Request) -> bool:
    """Is it for a resource of this API, rather than for a plugin's route?"""
    return not (request.match_info.route.name or "").startswith(PLUGIN_ROUTE)
