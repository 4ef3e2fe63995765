"""The operator API as an aiohttp application.

Every error is one JSON object {"error", "hint"?, "path"?}. From the outside in, a request passes: errors made JSON;
who may speak here; whether it is for the leader; the limit of its body; its resource.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from orlop.api import backup, cluster, events, explain, metrics, nodes, output, page, plugins, tasks
from orlop.api.agents import add_agents
from orlop.api.authority import ROUTES as AUTHORITY_ROUTES
from orlop.api.commands import ROUTES as COMMAND_ROUTES
from orlop.api.forwarding import client_session, forwarding
from orlop.api.guard import Authenticate, Handler, add_security_headers, authentication, is_own, loopback_guard
from orlop.api.interface import OperatorServer
from orlop.api.mounting import mount
from orlop.api.problems import Problem
from orlop.api.requests import BODY_BYTES_MAX, SERVER, too_large
from orlop.api.streams import STREAMS, end_streams
from orlop.framework import NotAvailable
from orlop.hookspecs import Routes
from orlop.security.vouching import Vouching
from orlop.server.remote_agents import RemoteAgents

log = logging.getLogger(__name__)

SESSION: Final = web.AppKey("session", aiohttp.ClientSession)
FORWARDING: Final = web.AppKey("forwarding", partial)
_GUARD: Final = web.AppKey[Middleware]("guard", object)  # type: ignore[arg-type]
_MODULES: Final = (backup, cluster, nodes, tasks, output, explain, events, plugins, metrics, page)


def make_application(
    server: OperatorServer,
    authenticate: Authenticate | None = None,
    agents: RemoteAgents | None = None,
    trust: Callable[[], ssl.SSLContext] | None = None,
    vouching: Callable[[], Vouching] | None = None,
) -> web.Application:
    """The API of this server, to be run on the loop that the server lives on.

    authenticate: gives a request's principal, or raises Problem. Without it, only this machine is served.
    agents: of other machines; without it none are served. trust: for connections to the leader over TLS. vouching: for
    clients of plugins' listeners, to the leader.
    """
    guard: Middleware = loopback_guard if authenticate is None else authentication(authenticate)
    own_guard = guard if authenticate is None else _all_but_health(guard)
    application = web.Application(middlewares=[errors_as_json, own_guard, limit_body], client_max_size=BODY_BYTES_MAX)
    application[SERVER] = server
    application[STREAMS] = set()
    application[_GUARD] = guard
    application[FORWARDING] = partial(forwarding, server, lambda: application[SESSION], trust=trust, vouching=vouching)
    application.middlewares.insert(2, application[FORWARDING]())
    application.cleanup_ctx.append(_with_session)
    for module in _MODULES:
        application.router.add_routes(module.ROUTES)
    if agents is not None:
        add_agents(application, agents)
        application.router.add_routes([*COMMAND_ROUTES, *AUTHORITY_ROUTES])
    application.on_response_prepare.append(add_security_headers)
    application.on_shutdown.append(end_streams)
    return application


def mount_plugin_routes(application: web.Application, routes: Iterable[Routes]) -> None:
    """Serves plugins' routes under `/<prefix>`, and guards those with a listener of their own as the API is guarded.

    May be called several times, before the application starts. Raises ValueError when a prefix cannot be used.
    """
    mount(application, routes, application[_GUARD], application[FORWARDING])


def _all_but_health(guard: Middleware) -> Middleware:
    """Load balancers have no tokens."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        asks = request.path == cluster.HEALTH_PATH and request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
        if asks and hdrs.AUTHORIZATION not in request.headers:
            return await cluster.get_bare_health(request)
        return await guard(request, handler)

    return guarded


async def _with_session(application: web.Application) -> AsyncIterator[None]:
    """Connections to the leader, while this server stands by."""
    application[SESSION] = client_session()
    yield
    await application[SESSION].close()


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Plugins' routes make their own errors; only their bugs are answered here."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPException as error:
        if not is_own(request) or error.status < HTTPStatus.BAD_REQUEST:
            raise
        return of_http(request, error).response()
    except NotAvailable as error:
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)).response()
    except web.RequestPayloadError as error:
        detail = " ".join(str(error).split())[:200]
        return Problem(HTTPStatus.BAD_REQUEST, f"the body cannot be read: {detail}", path="body").response()
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:
        whose = "Orlop" if is_own(request) else f"the plugin behind /{request.path.split('/')[1]}"
        log.exception("%s %s failed", request.method, request.path)
        hint = "the server's log has the traceback"
        return Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR, f"a bug in {whose}: {type(error).__name__}", hint=hint
        ).response()


def of_http(request: web.BaseRequest, error: web.HTTPException) -> Problem:
    """aiohttp's error in the API's form."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        text = f"{error.method} is not possible on {request.path}"
        return Problem(error.status, text, hint=f"possible: {allowed}", headers={hdrs.ALLOW: allowed})
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return too_large()
    if isinstance(error, web.HTTPNotFound):
        hint = "without the slash at the end?" if request.path.endswith("/") else "resources are under /v1"
        return Problem(error.status, f"there is nothing at {request.path[:200]}", hint=hint)
    return Problem(error.status, error.reason)


@web.middleware
async def limit_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses before reading what says itself that it is too large."""
    if is_own(request) and (request.content_length or 0) > BODY_BYTES_MAX:
        raise too_large()
    return await handler(request)
